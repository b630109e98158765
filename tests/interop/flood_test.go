package interop

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// TestStalledReceiver: one receiver does not read while a sender floods it. The same sender's packets to somebody else all
// arrive, a pair that has nothing to do with it goes on, and what the stalled one finds when it reads at last is whole, from
// the right key and in order, though much may be missing. It has mesh rights because relays are slow to give up on those, and
// it must not be the giving up that frees the others.
func TestStalledReceiver(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		alice, bob := join(t, r, tr, "alice"), join(t, r, tr, "bob")
		flooder, reader := join(t, r, tr, "flooder"), join(t, r, tr, "reader")
		stalled := rawLogin(t, r, tr, meshInfo())

		const total, every = 1500, 50 // of 64 KiB, far more than sockets and queues hold
		var work errgroup.Group
		work.Go(func() error {
			for n := range uint64(total) {
				if err := flooder.client.Send(stalled.public, packet(1, n, maxPacket)); err != nil {
					return fmt.Errorf("the flooder's packet %d: %w", n, err)
				}
				if n%every == 0 {
					if err := flooder.client.Send(reader.public, packet(2, n/every, 1400)); err != nil {
						return fmt.Errorf("the flooder's packet %d to the reader: %w", n/every, err)
					}
				}
			}
			return nil
		})
		work.Go(func() error { return receiveAll(reader, flooder.public, 2, total/every) })
		work.Go(func() error {
			for n := range uint64(500) {
				if err := roundTrip(alice, bob, 3, n); err != nil {
					return err
				}
			}
			return nil
		})
		if err := work.Wait(); err != nil {
			t.Fatal(err)
		}

		// The relay may have given up on the stalled one, so there need not be a next frame, but there must be a first.
		last := int64(-1)
		stalled.extend()
		stalled.conn.SetReadDeadline(time.Now().Add(patience))
		for last < total-1 {
			kind, payload, err := stalled.tryRead()
			if err != nil {
				var timeout net.Error
				if errors.As(err, &timeout) && timeout.Timeout() {
					t.Fatalf("the stalled receiver is left without the newest packet (its last is %d of %d) and without an end", last, total)
				}
				break
			}
			number, err := checkPacket(kind, payload, flooder.public, 1)
			if err != nil {
				t.Fatalf("the stalled receiver: %v", err)
			}
			if int64(number) <= last {
				t.Fatalf("the stalled receiver got packet %d after packet %d", number, last)
			}
			last = int64(number)
		}
		if last < 0 {
			t.Fatal("the stalled receiver found nothing")
		}
	})
}

// TestSlowReceiver: a receiver that takes one packet while eight are sent loses the older ones and catches up; all
// that it gets is whole, from the right key, and in order for each of its senders.
func TestSlowReceiver(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		senders := []*peer{join(t, r, tr, "alice"), join(t, r, tr, "bob")}
		slow := rawLogin(t, r, tr, ordinaryInfo)
		last := make(map[key.NodePublic]int64)
		tags := make(map[key.NodePublic]uint64)
		for i, p := range senders {
			last[p.public], tags[p.public] = -1, uint64(i)
		}
		got := 0
		readOne := func() {
			t.Helper()
			kind, payload := slow.read()
			if kind != derp.FrameRecvPacket || len(payload) < 32 {
				t.Fatalf("got frame %#02x with %d bytes; want RecvPacket", byte(kind), len(payload))
			}
			from := publicKey(payload[:32])
			if _, known := tags[from]; !known {
				t.Fatalf("got a packet from %v, a stranger to this test", from)
			}
			number, err := checkPacket(kind, payload, from, tags[from])
			if err != nil {
				t.Fatal(err)
			}
			if int64(number) <= last[from] {
				t.Fatalf("got packet %d of %v after its packet %d", number, from.ShortString(), last[from])
			}
			last[from] = int64(number)
			got++
		}

		const rounds, each = 200, 4
		for n := range uint64(rounds * each) {
			for i, p := range senders {
				p.send(slow.public, packet(uint64(i), n, 48<<10))
			}
			if n%each == 0 {
				slow.extend()
				readOne()
			}
		}
		// What one sender still has on the way may push out the other's newest packet. So both go on, slower than the
		// receiver reads now, until it has seen that it gets everything again.
		const flooded = rounds * each
		behind := func() bool { return last[senders[0].public] < flooded || last[senders[1].public] < flooded }
		for n := uint64(flooded); behind(); n++ {
			for i, p := range senders {
				p.send(slow.public, packet(uint64(i), n, 48<<10))
			}
			slow.extend()
			for range 2 * len(senders) {
				if behind() {
					readOne()
				}
			}
		}
		t.Logf("got %d of %d packets", got, rounds*each*len(senders))
	})
}

// TestDiscoFlood: a flood of disco packets to a receiver does not push out the data that somebody else sends to it, nor the
// other way round.
func TestDiscoFlood(t *testing.T) {
	discoPacket := func(tag, n uint64) []byte { return disco(tag, n, 200) }
	dataPacket := func(tag, n uint64) []byte { return packet(tag, n, 1400) }
	for _, c := range []struct {
		name        string
		flood, calm func(tag, n uint64) []byte
	}{{"disco-floods", discoPacket, dataPacket}, {"data-floods", dataPacket, discoPacket}} {
		overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
			t.Run(c.name, func(t *testing.T) {
				flooder, calm, target := join(t, r, tr, "flooder"), join(t, r, tr, "calm"), join(t, r, tr, "target")
				const calmPackets, window = 1000, 20
				done, failed := make(chan struct{}), make(chan struct{})
				credit := make(chan struct{}, window)
				var work errgroup.Group
				work.Go(func() error {
					for n := uint64(0); ; n++ {
						select {
						case <-done:
							return nil
						default:
						}
						if err := flooder.client.Send(target.public, c.flood(1, n)); err != nil {
							return fmt.Errorf("the flooder: %w", err)
						}
					}
				})
				work.Go(func() error {
					for n := range uint64(calmPackets) {
						select {
						case credit <- struct{}{}:
						case <-failed:
							return nil
						}
						if err := calm.client.Send(target.public, c.calm(2, n)); err != nil {
							return fmt.Errorf("the calm sender: %w", err)
						}
					}
					return nil
				})
				work.Go(func() (err error) {
					defer close(done)
					defer func() {
						if err != nil {
							close(failed)
						}
					}()
					nextCalm, lastFlood := uint64(0), int64(-1)
					lastProgress := time.Now() // the flood never ends by itself
					for nextCalm < calmPackets {
						if time.Since(lastProgress) > patience {
							return fmt.Errorf("the target has %d of %d calm packets and for %v got only the flood", nextCalm, calmPackets, patience)
						}
						m, err := target.next()
						if err != nil {
							return fmt.Errorf("the target has %d of %d calm packets: %w", nextCalm, calmPackets, err)
						}
						data, ok := m.(derp.ReceivedPacket)
						if !ok {
							return fmt.Errorf("the target got %s; want a packet", describe(m))
						}
						tag, number, err := stamp(data.Data)
						switch {
						case err != nil:
							return err
						case tag == 2 && data.Source == calm.public && number == nextCalm:
							nextCalm++
							lastProgress = time.Now()
							<-credit
						case tag == 1 && data.Source == flooder.public && int64(number) > lastFlood:
							lastFlood = int64(number)
						default:
							return fmt.Errorf("the target got packet %d of sender %d from %v; it waits for %d of the calm one, and had %d of the flood",
								number, tag, data.Source.ShortString(), nextCalm, lastFlood)
						}
					}
					return nil
				})
				if err := work.Wait(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// TestPingFlood: somebody who pings all the time and does not read gets at most an answer for each, and others are served.
func TestPingFlood(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		alice, bob := join(t, r, tr, "alice"), join(t, r, tr, "bob")
		s := rawLogin(t, r, tr, ordinaryInfo)
		const pings = 50_000
		var work errgroup.Group
		work.Go(func() error {
			var batch []byte
			for n := range uint64(pings) {
				batch = append(batch, frame(derp.FramePing, packet(0, n, 8))...)
				if len(batch) > 8<<10 || n == pings-1 {
					if _, err := s.conn.Write(batch); err != nil {
						return fmt.Errorf("pinging: %w", err)
					}
					batch = batch[:0]
				}
			}
			return nil
		})
		work.Go(func() error {
			for n := range uint64(300) {
				if err := roundTrip(alice, bob, 1, n); err != nil {
					return err
				}
			}
			return nil
		})
		if err := work.Wait(); err != nil {
			t.Fatal(err)
		}
		// The end of the flood is a packet to itself. Pongs may overtake it, so one more ping ends the search.
		s.extend()
		next := uint64(0)
		end := frame(derp.FrameSendPacket, s.public.AppendTo(nil), []byte("end"))
		s.write(end)
		for {
			kind, payload := s.read()
			if kind == derp.FrameRecvPacket {
				break
			}
			if kind != derp.FramePong || len(payload) != 8 {
				t.Fatalf("got frame %#02x with %d bytes; want a pong", byte(kind), len(payload))
			}
			for next < pings && string(packet(0, next, 8)) != string(payload) {
				next++
			}
			if next == pings {
				t.Fatalf("got the pong %x, which answers none of the pings after the last one answered", payload)
			}
			next++
		}
	})
}

// TestBulkOneWay: one sender as fast as it can to a receiver that reads as fast as it can. Packets may be lost, but none may
// be damaged, and order is kept.
func TestBulkOneWay(t *testing.T) {
	overTransports(t, []transport{plain, tls13, tls12}, func(t *testing.T, r *relay, tr transport) {
		alice, bob := join(t, r, tr, "alice"), join(t, r, tr, "bob")
		const total = 20_000
		var work errgroup.Group
		work.Go(func() error {
			for n := range uint64(total) {
				if err := alice.client.Send(bob.public, packet(1, n, 1000)); err != nil {
					return fmt.Errorf("packet %d: %w", n, err)
				}
			}
			return nil
		})
		got, last := 0, int64(-1)
		work.Go(func() error {
			for last < total-1 { // which is never the oldest in a queue
				m, err := bob.next()
				if err != nil {
					return fmt.Errorf("bob's last is packet %d of %d: %w", last, total, err)
				}
				data, ok := m.(derp.ReceivedPacket)
				if !ok || data.Source != alice.public {
					return fmt.Errorf("bob got %s; want a packet from alice", describe(m))
				}
				tag, number, err := stamp(data.Data)
				if err != nil || tag != 1 || int64(number) <= last {
					return fmt.Errorf("bob got packet %d of sender %d after packet %d, %v", number, tag, last, err)
				}
				last = int64(number)
				got++
			}
			return nil
		})
		if err := work.Wait(); err != nil {
			t.Fatal(err)
		}
		t.Logf("got %d of %d packets", got, total)
	})
}

// TestHalfOpenStrangers: connections that never get as far as a login do not keep others from theirs.
func TestHalfOpenStrangers(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		for n := range 60 {
			switch n % 3 {
			case 0: // says nothing
				conn, err := net.Dial("tcp", r.addr())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
			case 1: // stops inside its request
				rawDial(t, r, tr).write([]byte("GET /derp HTTP/1.1\r\nHost: "))
			case 2: // stops inside its login
				rawUpgrade(t, r, tr).write(frameHeader(derp.FrameClientInfo, 200))
			}
		}
		alice, bob := join(t, r, tr, "alice"), join(t, r, tr, "bob")
		for n := range uint64(20) {
			if err := roundTrip(alice, bob, 1, n); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestCutShort: connections that end inside a frame, or inside a TLS record, leave nothing behind for others.
func TestCutShort(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		bob := join(t, r, tr, "bob")
		whole := frame(derp.FrameSendPacket, bob.public.AppendTo(nil), packet(1, 1, 3000))
		for n := range 30 {
			s := rawLogin(t, r, tr, ordinaryInfo)
			first := packet(2, uint64(n), 100)
			s.write(append(frame(derp.FrameSendPacket, bob.public.AppendTo(nil), first), whole[:1+n*100]...))
			bob.wantPacket(s.public, first)
			if n%2 == 0 {
				if tcp, ok := s.conn.(*net.TCPConn); ok {
					tcp.SetLinger(0) // a reset
				}
			}
			s.conn.Close()
			bob.wantGone(s.public, derp.PeerGoneReasonDisconnected)
		}
		bob.wantPong()
	})
}

// roundTrip sends a packet there and back.
func roundTrip(a, b *peer, tag, number uint64) error {
	for _, way := range [][2]*peer{{a, b}, {b, a}} {
		from, to := way[0], way[1]
		if err := from.client.Send(to.public, packet(tag, number, 1400)); err != nil {
			return fmt.Errorf("%s sends packet %d: %w", from.name, number, err)
		}
		if err := receive(to, from.public, tag, number); err != nil {
			return err
		}
	}
	return nil
}

// receiveAll insists on exactly these packets, in order.
func receiveAll(p *peer, from key.NodePublic, tag, count uint64) error {
	for n := range count {
		if err := receive(p, from, tag, n); err != nil {
			return err
		}
	}
	return nil
}

func receive(p *peer, from key.NodePublic, tag, number uint64) error {
	m, err := p.next()
	if err != nil {
		return fmt.Errorf("%s waits for packet %d: %w", p.name, number, err)
	}
	data, ok := m.(derp.ReceivedPacket)
	if !ok || data.Source != from {
		return fmt.Errorf("%s got %s; want packet %d from %s", p.name, describe(m), number, from.ShortString())
	}
	gotTag, got, err := stamp(data.Data)
	if err != nil || gotTag != tag || got != number {
		return fmt.Errorf("%s got packet %d of %#x, %v; want packet %d of %#x", p.name, got, gotTag, err, number, tag)
	}
	return nil
}

// checkPacket reads the number of a RecvPacket frame's packet after checking all the rest.
func checkPacket(kind derp.FrameType, payload []byte, from key.NodePublic, tag uint64) (number uint64, err error) {
	if kind != derp.FrameRecvPacket || len(payload) < 32 {
		return 0, fmt.Errorf("got frame %#02x with %d bytes; want RecvPacket", byte(kind), len(payload))
	}
	if got := publicKey(payload[:32]); got != from {
		return 0, fmt.Errorf("got a packet from %v; want one from %v", got, from)
	}
	gotTag, number, err := stamp(payload[32:])
	if err == nil && gotTag != tag {
		err = fmt.Errorf("got a packet of sender %d under the key of sender %d", gotTag, tag)
	}
	return number, err
}
