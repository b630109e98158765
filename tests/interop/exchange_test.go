package interop

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// sizes are those at which something changes: nothing, less than a stamp, around the smallest disco packet, around what
// WireGuard sends, a page, a TLS record, and the largest that DERP carries.
var sizes = []int{0, 1, 2, 15, 16, 61, 62, 63, 100, 1280, 1400, 4096, 16347, 16384, 16385, 65535, 65536}

// TestExchange: what one of three peers sends to another arrives unchanged and in order, and nothing reaches the third.
func TestExchange(t *testing.T) {
	overTransports(t, allTransports, func(t *testing.T, r *relay, tr transport) {
		peers := []*peer{join(t, r, tr, "alice"), join(t, r, tr, "bob"), join(t, r, tr, "carol")}
		for i, from := range peers {
			to, third := peers[(i+1)%3], peers[(i+2)%3]
			for n, size := range sizes {
				data := packet(uint64(i), uint64(n), size)
				from.send(to.public, data)
				to.wantPacket(from.public, data)
			}
			// A relay keeps what it got from one sender for one receiver in order, so anything that had strayed to the
			// third would come before this.
			last := []byte("nothing before this")
			from.send(third.public, last)
			third.wantPacket(from.public, last)
		}
	})
}

// TestBurst: packets of mixed sizes that are on their way at the same time keep their order and their borders.
func TestBurst(t *testing.T) {
	overTransports(t, allTransports, func(t *testing.T, r *relay, tr transport) {
		alice, bob := join(t, r, tr, "alice"), join(t, r, tr, "bob")
		const inFlight = 30 // derper's queues hold 32
		for round := range 8 {
			for n := range inFlight {
				alice.send(bob.public, packet(uint64(round), uint64(n), sizes[(n*7+round)%len(sizes)]))
			}
			for n := range inFlight {
				bob.wantPacket(alice.public, packet(uint64(round), uint64(n), sizes[(n*7+round)%len(sizes)]))
			}
		}
	})
}

// TestSendToSelf: a peer may write to its own key.
func TestSendToSelf(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		alice := join(t, r, tr, "alice")
		for n, size := range sizes {
			data := packet(1, uint64(n), size)
			alice.send(alice.public, data)
			alice.wantPacket(alice.public, data)
		}
	})
}

// TestMixedTransports: how a peer is connected is nobody else's business.
func TestMixedTransports(t *testing.T) {
	r := sharedRelay(t, true)
	var peers []*peer
	for _, tr := range []transport{tls13, tls12, tls13Upgrade} {
		peers = append(peers, join(t, r, tr, tr.name))
	}
	for i, from := range peers {
		for j, to := range peers {
			for n, size := range sizes {
				data := packet(uint64(i*len(peers)+j), uint64(n), size)
				from.send(to.public, data)
				to.wantPacket(from.public, data)
			}
		}
	}
}

// TestBulkPair: 64 KiB packets both ways at once, 30 in flight, as Tailscale's prober sends them. None may be lost.
func TestBulkPair(t *testing.T) {
	overTransports(t, []transport{plain, tls13, tls12}, func(t *testing.T, r *relay, tr transport) {
		transfer(t, []*peer{join(t, r, tr, "alice"), join(t, r, tr, "bob")}, transferShape{
			packets: 300, size: func(uint64) int { return maxPacket }, window: 30,
		})
	})
}

// TestManyPairs: twelve peers all write to all others. What fits into the relay's queues may not be lost, and each sender's
// packets arrive in order.
func TestManyPairs(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		var peers []*peer
		for i := range 12 {
			peers = append(peers, join(t, r, tr, fmt.Sprintf("peer %d", i)))
		}
		shape := transferShape{
			packets: 250,
			window:  30,
			size:    func(n uint64) int { return stampBytes + int(n*n*37%1400) },
		}
		if testingReference() {
			shape.window = 30 / (len(peers) - 1) // derper's queue of 32 is the receiver's, whoever sends
		}
		transfer(t, peers, shape)
	})
}

type transferShape struct {
	packets uint64 // from each peer to each other one
	window  int    // how many of those may be on their way at once
	size    func(number uint64) int
}

// transfer sends between all pairs at the same time and insists that all of it arrives whole and in order, and nothing else.
func transfer(t *testing.T, peers []*peer, shape transferShape) {
	t.Helper()
	type route struct{ from, to int }
	tag := func(r route) uint64 { return uint64(r.from)<<16 | uint64(r.to) }
	credit := make(map[route]chan struct{})
	index := make(map[key.NodePublic]int)
	for i, p := range peers {
		index[p.public] = i
		for j := range peers {
			if i != j {
				credit[route{i, j}] = make(chan struct{}, shape.window)
			}
		}
	}

	var everyone errgroup.Group
	failed := make(chan struct{})
	var failOnce sync.Once
	start := func(f func() error) {
		everyone.Go(func() error {
			err := f()
			if err != nil {
				failOnce.Do(func() { close(failed) })
			}
			return err
		})
	}
	for r, slots := range credit {
		start(func() error {
			from, to := peers[r.from], peers[r.to]
			for n := range shape.packets {
				select {
				case slots <- struct{}{}:
				case <-failed:
					return nil
				case <-time.After(patience):
					return fmt.Errorf("%s to %s: %d packets are on their way and none arrives; %d had been sent",
						from.name, to.name, shape.window, n)
				}
				if err := from.client.Send(to.public, packet(tag(r), n, shape.size(n))); err != nil {
					return fmt.Errorf("%s sends to %s: %w", from.name, to.name, err)
				}
			}
			return nil
		})
	}
	for i, to := range peers {
		start(func() error {
			expected := make([]uint64, len(peers))
			for range shape.packets * uint64(len(peers)-1) {
				m, err := to.next()
				if err != nil {
					return fmt.Errorf("%s has got %v packets from each and waits for more: %w", to.name, expected, err)
				}
				data, ok := m.(derp.ReceivedPacket)
				if !ok {
					return fmt.Errorf("%s got %s; want a packet", to.name, describe(m))
				}
				from, known := index[data.Source]
				if !known {
					return fmt.Errorf("%s got %s, a stranger to this test", to.name, describe(m))
				}
				gotTag, number, err := stamp(data.Data)
				if err != nil {
					return fmt.Errorf("%s to %s: %w", peers[from].name, to.name, err)
				}
				r := route{from, i}
				if gotTag != tag(r) || number != expected[from] || len(data.Data) != shape.size(number) {
					return fmt.Errorf("%s to %s: got packet %d of route %#x with %d bytes; want packet %d of route %#x",
						peers[from].name, to.name, number, gotTag, len(data.Data), expected[from], tag(r))
				}
				expected[from]++
				<-credit[r]
			}
			return nil
		})
	}
	if err := everyone.Wait(); err != nil {
		t.Fatal(err)
	}
}
