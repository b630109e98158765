package interop

import (
	"fmt"
	"testing"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// TestDuplicateKeys: of several connections with one key, that which spoke last gets the packets. Any frame is speaking, the
// login too.
func TestDuplicateKeys(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		bob := join(t, r, tr, "bob")
		private := key.NewNode()
		twins := make([]*peer, 3)
		sent := uint64(0)
		wantAt := func(i int) {
			t.Helper()
			sent++
			data := packet(1, sent, 200)
			bob.send(private.Public(), data)
			twins[i].wantPacket(bob.public, data)
		}
		for i := range twins {
			twins[i] = join(t, r, tr, fmt.Sprintf("twin %d", i), withDisputedKey(private))
			wantAt(i)
		}
		for _, i := range []int{0, 2, 1, 0, 0, 2} {
			twins[i].wantPong()
			wantAt(i)
		}
		// Packets are speaking, and come from the key whichever twin sends them.
		data := packet(2, 1, 300)
		twins[1].send(bob.public, data)
		bob.wantPacket(private.Public(), data)
		wantAt(1)
		// One that is not active leaves: nothing changes.
		twins[0].leave()
		wantAt(1)
		// The active one leaves: the other takes over, as soon as the relay has noticed.
		twins[1].leave()
		twins[2].wantPong()
		wantAt(2)
		// Only the last one's end is the key's end.
		bob.wantPong()
		twins[2].leave()
		bob.wantGone(private.Public(), derp.PeerGoneReasonDisconnected)
	})
}

// TestDuplicateTakesOver: when the active connection ends, the remaining one gets the packets without having to speak.
func TestDuplicateTakesOver(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		mesh := join(t, r, tr, "mesh", withMeshKey())
		first := join(t, r, tr, "first")
		second := join(t, r, tr, "second", withKey(first.private))
		second.leave()
		// How soon the relay notices is its own business, and until then packets go to the dead one: repeat until one arrives.
		got := make(chan error, 1)
		go func() {
			_, err := first.next()
			got <- err
		}()
		for n := uint64(0); ; n++ {
			mesh.send(first.public, packet(1, n, 100))
			mesh.wantPong()
			select {
			case err := <-got:
				if err != nil {
					t.Fatalf("the remaining connection got none of %d packets: %v", n, err)
				}
				return
			default:
			}
		}
	})
}

// TestReconnects: a client that keeps coming back with its key, while its old connections are still being closed, gets what
// is sent to it at the newest one.
func TestReconnects(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		bob := join(t, r, tr, "bob")
		private := key.NewNode()
		var previous *peer
		for n := range uint64(40) {
			alice := join(t, r, tr, fmt.Sprintf("alice %d", n), withKey(private))
			if previous != nil {
				previous.leave()
			}
			for m := range uint64(3) {
				data := packet(n, m, 500)
				bob.send(private.Public(), data)
				alice.wantPacket(bob.public, data)
			}
			previous = alice
		}
		bob.wantPong() // and never was she gone
	})
}

// TestHealth: two live connections that take turns with one key are both told, and told again when it is over.
func TestHealth(t *testing.T) {
	skipReference(t, "never sends Health")
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		private := key.NewNode()
		first := join(t, r, tr, "first", withDisputedKey(private))
		second := join(t, r, tr, "second", withDisputedKey(private))
		for n := range uint64(6) {
			for _, p := range []*peer{first, second} {
				data := packet(1, n, 100)
				p.send(private.Public(), data) // having spoken last, it is the one that gets it
				p.wantPacket(private.Public(), data)
			}
		}
		for _, p := range []*peer{first, second} {
			p.wantHealth("its key is in use twice", func(problem string) bool { return problem != "" })
		}
		second.leave()
		first.wantHealth("its key is its own again", func(problem string) bool { return problem == "" })
	})
}

// wantHealth waits until the relay says something about the connection's health that fits.
func (p *peer) wantHealth(what string, fits func(problem string) bool) {
	p.t.Helper()
	for {
		m, err := p.health.take()
		if err != nil {
			p.t.Fatalf("%s waits for Health to say that %s: %v", p.name, what, err)
		}
		if fits(m.(derp.HealthMessage).Problem) {
			return
		}
	}
}

// TestNoHealthForSuccession: a client that reconnects while its old connection lingers is no cloned key.
func TestNoHealthForSuccession(t *testing.T) {
	r := sharedRelay(t, false)
	first := join(t, r, plain, "first")
	first.wantPong()
	second := join(t, r, plain, "second", withKey(first.private))
	for range 5 {
		second.wantPong()
	}
	first.leave()
	for range 5 {
		second.wantPong()
	}
}
