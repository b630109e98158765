package interop

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// These tests know what they did, and want every number of the relay to say that and nothing else. derper is judged by the
// same ones, on its own pages; where it is meant to differ, a number is wrapped in ours().
//
// Two reasons for drops cannot be provoked from outside. dup_client counts packets for a key with several connections of
// which none is active: derper can only get there with a policy that its command line does not offer, and derpring's sets
// always have an active member, as the last to speak takes over and its end makes another one active. queue_tail counts
// packets that found no room though older ones were thrown out for them: derper needs senders that race for the same queue,
// and in derpring a queue belongs to one thread.

// joined is what one more connection under a key of its own changes.
func joined(count float64, more ...numbers) numbers {
	n := numbers{
		"accepts": count, "current_connections": count, "clients_total": count, "clients_local": count,
	}
	for _, other := range more {
		for name, change := range other {
			n[name] += change
		}
	}
	return n
}

// left is what the end of such connections changes.
func left(count float64, more ...numbers) numbers {
	return joined(-count, append(more, numbers{"accepts": count})...)
}

// delivered is what packets of one kind change that reach their receivers.
func delivered(kind string, count, bytes float64) numbers {
	return numbers{
		"packets_received": count, "packets_received_kind/" + kind: count, "bytes_received": bytes,
		"packets_sent": count, "bytes_sent": bytes,
	}
}

// undelivered is what packets change that are for nobody.
func undelivered(kind string, count, bytes float64) numbers {
	return numbers{
		"packets_received": count, "packets_received_kind/" + kind: count, "bytes_received": bytes,
		"packets_dropped/unknown_dest/" + kind: count, "bytes_dropped/unknown_dest/" + kind: bytes,
	}
}

func overMetered(t *testing.T, f func(*testing.T, *relay, *meter, transport)) {
	for _, tr := range plainAndTLS {
		t.Run(tr.name, func(t *testing.T) {
			r, m := startMetered(t, tr)
			f(t, r, m, tr)
		})
	}
}

// TestCountsPackets: packets by kind and payload bytes, to the byte, whoever they are for.
func TestCountsPackets(t *testing.T) {
	overMetered(t, func(t *testing.T, r *relay, m *meter, tr transport) {
		alice, bob := join(t, r, tr, "alice"), join(t, r, tr, "bob")
		m.expect("two have joined", joined(2))

		for _, way := range [][2]*peer{{alice, bob}, {bob, alice}, {alice, alice}} {
			from, to := way[0], way[1]
			bytes := 0
			for n, size := range sizes {
				from.send(to.public, packet(1, uint64(n), size))
				to.wantPacket(from.public, packet(1, uint64(n), size))
				bytes += size
			}
			m.expect(from.name+" sends to "+to.name, delivered("other", float64(len(sizes)), float64(bytes)))
		}
		// One byte less than disco, and what is disco.
		almost := disco(1, 0, 90)[:discoMin-1]
		alice.send(bob.public, almost)
		bob.wantPacket(alice.public, almost)
		m.expect("a packet that is nearly disco", delivered("other", 1, discoMin-1))
		bytes := 0
		for n, size := range []int{discoMin, discoMin + 1, 200, maxPacket} {
			data := append([]byte(nil), disco(2, uint64(n), size+stampBytes)[:size]...)
			bob.send(alice.public, data)
			alice.wantPacket(bob.public, data)
			bytes += size
		}
		m.expect("disco", delivered("disco", 4, float64(bytes)))

		nobody := key.NewNode().Public()
		for _, size := range []int{0, 10, 1400} {
			alice.send(nobody, packet(3, 0, size))
		}
		m.expect("packets for nobody", undelivered("other", 3, 1410))
		alice.send(nobody, disco(3, 0, 100))
		alice.wantGone(nobody, derp.PeerGoneReasonNotHere)
		changes := undelivered("disco", 1, 100)
		changes["peer_gone_not_here_frames"] = 1
		m.expect("disco for nobody", changes)

		alice.wantPong()
		bob.wantPong()
		m.expect("whoever looks changes nothing", numbers{"got_ping": 2, "sent_pong": 2})
	})
}

// TestCountsArrivals: connections, logins that fail, keys, homes, and several connections of one key.
func TestCountsArrivals(t *testing.T) {
	overMetered(t, func(t *testing.T, r *relay, m *meter, tr transport) {
		alice := join(t, r, tr, "alice")
		m.expect("one has joined", joined(1))
		rawDial(t, r, tr).conn.Close()
		m.expect("one only connects", nil)
		rawUpgrade(t, r, tr).conn.Close()
		m.expect("one asks for DERP and leaves", numbers{"accepts": 1})
		forger := rawUpgrade(t, r, tr)
		forger.write(frame(derp.FrameClientInfo, forger.public.AppendTo(nil), make([]byte, 100)))
		forger.wantClosed("its login cannot be opened")
		m.expect("one fails to log in", numbers{"accepts": 1})

		displaced := rawDial(t, r, tr)
		displaced.write([]byte(upgradeRequest(r, "Ideal-Node: 9z")))
		m.expect("one is about to log in", numbers{"accepts": 1})
		displaced.conn.Close()
		m.expect("and does not", nil)

		mesh := join(t, r, tr, "mesh", withMeshKey())
		m.expect("a mesh peer is a connection", joined(1))
		watcher := join(t, r, tr, "watcher", watching())
		m.expect("a watcher", joined(1, numbers{"watchers": 1}))
		watcher.leave()
		m.expect("it leaves", left(1, numbers{"watchers": -1}))
		mesh.leave()
		m.expect("so does the mesh peer", left(1))

		// Home is said for a connection, and only once.
		home := join(t, r, tr, "home")
		m.expect("another joins", joined(1))
		home.client.NotePreferred(true)
		m.expect("and is at home", numbers{"current_home_connections": 1})
		alice.client.NotePreferred(false)
		m.expect("one that never was says it is not", nil)
		home.leave()
		m.expect("who was at home leaves", left(1, numbers{"current_home_connections": -1}))

		private := key.NewNode()
		twins := []*peer{join(t, r, tr, "first", withDisputedKey(private))}
		m.expect("the first of a key", joined(1))
		twins = append(twins, join(t, r, tr, "second", withDisputedKey(private)))
		another := numbers{"accepts": 1, "current_connections": 1, "current_dup_client_conns": 2,
			"current_dup_client_keys": 1, "total_dup_client_conns": 1}
		m.expect("the second of a key", another)
		twins = append(twins, join(t, r, tr, "third", withDisputedKey(private)))
		m.expect("the third of a key", numbers{"accepts": 1, "current_connections": 1, "current_dup_client_conns": 1,
			"total_dup_client_conns": 1})
		data := packet(1, 1, 300)
		alice.send(private.Public(), data)
		twins[2].wantPacket(alice.public, data)
		m.expect("a packet for the key arrives once", delivered("other", 1, 300))
		twins[2].leave()
		m.expect("one of three leaves", numbers{"current_connections": -1, "current_dup_client_conns": -1})
		twins[0].leave()
		m.expect("one of two leaves", numbers{"current_connections": -1, "current_dup_client_conns": -2,
			"current_dup_client_keys": -1})
		alice.wantPong() // not told that the key has gone
		m.expect("a ping", numbers{"got_ping": 1, "sent_pong": 1})
		twins[1].leave()
		m.expect("the last one of a key leaves", left(1))
	})
}

// TestCountsNotIdeal: a connection to another node than the client's ideal one.
func TestCountsNotIdeal(t *testing.T) {
	overMetered(t, func(t *testing.T, r *relay, m *meter, tr transport) {
		s := rawDial(t, r, tr)
		s.write([]byte(upgradeRequest(r, "Ideal-Node: 9z", "Derp-Fast-Start: 1")))
		s.wantServerKey()
		s.write(frame(derp.FrameClientInfo, s.clientInfo(ordinaryInfo)))
		s.wantServerInfo()
		m.expect("it joins", joined(1, numbers{"current_notideal_connections": 1}))
		s.conn.Close()
		m.expect("it leaves", left(1, numbers{"current_notideal_connections": -1}))
	})
}

// TestCountsFrames: pings, also those that end a connection, pongs, and frames that mean nothing.
func TestCountsFrames(t *testing.T) {
	overMetered(t, func(t *testing.T, r *relay, m *meter, tr transport) {
		alice := join(t, r, tr, "alice")
		m.expect("one has joined", joined(1))
		for range 10 {
			if err := alice.client.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		m.expect("pings one after another", numbers{"got_ping": 10, "sent_pong": 10})
		for what, bad := range map[string][]byte{
			"too short": frame(derp.FramePing, make([]byte, 7)), "too long": frame(derp.FramePing, make([]byte, 1001)),
		} {
			s := rawLogin(t, r, tr, ordinaryInfo)
			m.expect("another joins", joined(1))
			s.write(bad)
			s.wantClosed("its ping is " + what)
			m.expect("a ping that is "+what, left(1, numbers{"got_ping": 1}))
		}

		// One pong may wait at a time, so a burst has fewer answers than pings; each that is counted arrives.
		s := rawLogin(t, r, tr, ordinaryInfo)
		m.expect("another joins", joined(1))
		var burst []byte
		const pings = 2000
		for n := range uint64(pings) {
			burst = append(burst, frame(derp.FramePing, packet(0, n, 8))...)
		}
		var pongs atomic.Int64
		before := m.want["sent_pong"]
		go func() {
			for {
				kind, _, err := s.tryRead()
				if err != nil {
					return
				}
				if kind == derp.FramePong {
					pongs.Add(1)
				}
			}
		}()
		s.write(burst)
		m.want["got_ping"] += pings
		m.observe("a burst of pings", []string{"sent_pong"}, func(now numbers) error {
			if got, counted := float64(pongs.Load()), now["sent_pong"]-before; got != counted || got < 1 || got > pings {
				return fmt.Errorf("%v pongs have arrived, %v are counted", got, counted)
			}
			return nil
		})

		// derper declares this counter and never counts: a deliberate difference.
		for _, kind := range []derp.FrameType{0x77, 0xee, derp.FrameRestarting} {
			s.write(frame(kind, make([]byte, 3000)))
		}
		m.expect("frames that mean nothing", numbers{"unknown_frames": ours(3)})
	})
}

// TestCountsDepartures: notices that a peer has left, to those who heard from it and to watchers, and to nobody else.
func TestCountsDepartures(t *testing.T) {
	overMetered(t, func(t *testing.T, r *relay, m *meter, tr transport) {
		alice, bob, carol := join(t, r, tr, "alice"), join(t, r, tr, "bob"), join(t, r, tr, "carol")
		watcher := join(t, r, tr, "watcher", watching())
		m.expect("all are there", joined(4, numbers{"watchers": 1}))
		for _, way := range [][2]*peer{{alice, bob}, {bob, alice}, {carol, alice}} {
			way[0].send(way[1].public, packet(1, 1, 500))
			way[1].wantPacket(way[0].public, packet(1, 1, 500))
		}
		m.expect("they talk", delivered("other", 3, 1500))
		alice.leave()
		bob.wantGone(alice.public, derp.PeerGoneReasonDisconnected)
		watcher.seek("alice's departure", isGone(alice.public))
		m.expect("alice leaves, of whom bob had heard", left(1, numbers{"peer_gone_disconnected_frames": 2}))
		carol.leave()
		watcher.seek("carol's departure", isGone(carol.public))
		m.expect("carol leaves, of whom nobody had heard who is there",
			left(1, numbers{"peer_gone_disconnected_frames": 1}))
		bob.wantPong()
		m.expect("a ping", numbers{"got_ping": 1, "sent_pong": 1})
	})
}

// TestCountsNotHere: of many questions for nobody three are answered at once and one a second; each counted answer arrives.
func TestCountsNotHere(t *testing.T) {
	overMetered(t, func(t *testing.T, r *relay, m *meter, tr transport) {
		alice := join(t, r, tr, "alice")
		m.expect("one has joined", joined(1))
		nobody := key.NewNode().Public()
		const asked = 20
		begin := time.Now()
		for n := range uint64(asked) {
			alice.send(nobody, disco(1, n, 100))
		}
		for name, change := range undelivered("disco", asked, asked*100) {
			m.want[name] += change
		}
		m.observe("it asks for nobody", []string{"peer_gone_not_here_frames"}, func(now numbers) error {
			most := 3 + int(time.Since(begin)/time.Second) + 1
			got, counted := alice.inbox.len(), now["peer_gone_not_here_frames"]
			if got < 3 || got > most || float64(got) != counted {
				return fmt.Errorf("%d answers have arrived, %v are counted; want from 3 to %d", got, counted, most)
			}
			return nil
		})
		for alice.inbox.len() > 0 {
			alice.wantGone(nobody, derp.PeerGoneReasonNotHere)
		}
		alice.wantPong()
		m.expect("a ping", numbers{"got_ping": 1, "sent_pong": 1})
	})
}

// TestCountsHomeMoves: whoever changes its mind about its home later than five seconds after its arrival has moved.
func TestCountsHomeMoves(t *testing.T) {
	t.Parallel() // it mostly waits
	const settled = 5 * time.Second
	r, m := startMetered(t, plain)
	begin := time.Now()
	alice, bob := join(t, r, plain, "alice"), join(t, r, plain, "bob")
	arrived := time.Now()
	alice.client.NotePreferred(true)
	bob.client.NotePreferred(true)
	bob.client.NotePreferred(false)
	alice.wantPong()
	bob.wantPong()
	if time.Since(begin) > settled {
		leaveOut(t, "this machine is too slow: what should come soon after the arrival came later than five seconds")
	}
	m.expect("they say early where their home is", joined(2, numbers{
		"current_home_connections": 1, "got_ping": 2, "sent_pong": 2,
	}))
	time.Sleep(time.Until(arrived.Add(settled + 100*time.Millisecond))) // the rule is one of time
	alice.client.NotePreferred(true)
	bob.client.NotePreferred(false)
	alice.wantPong()
	bob.wantPong()
	m.expect("they say it again", numbers{"got_ping": 2, "sent_pong": 2})
	alice.client.NotePreferred(false)
	m.expect("one moves away", numbers{"home_moves_out": 1, "current_home_connections": -1})
	bob.client.NotePreferred(true)
	m.expect("one moves in", numbers{"home_moves_in": 1, "current_home_connections": 1})
	bob.client.NotePreferred(false)
	bob.client.NotePreferred(true)
	m.expect("there and back", numbers{"home_moves_in": 1, "home_moves_out": 1})
	bob.leave()
	m.expect("to leave is not to move", left(1, numbers{"current_home_connections": -1}))
}

// TestCountsForwarded: what a mesh peer hands over is no packet of a client, but what becomes of it is counted.
func TestCountsForwarded(t *testing.T) {
	overMetered(t, func(t *testing.T, r *relay, m *meter, tr transport) {
		mesh, alice := join(t, r, tr, "mesh", withMeshKey()), join(t, r, tr, "alice")
		m.expect("both are there", joined(2))
		faraway, nobody := key.NewNode().Public(), key.NewNode().Public()
		forward := func(to key.NodePublic, data []byte) {
			t.Helper()
			if err := mesh.client.ForwardPacket(faraway, to, data); err != nil {
				t.Fatal(err)
			}
			m.forwardedBytes += float64(len(data))
		}
		bytes := 0
		for n, size := range sizes {
			forward(alice.public, packet(1, uint64(n), size))
			alice.wantPacket(faraway, packet(1, uint64(n), size))
			bytes += size
		}
		m.expect("packets from far away", numbers{"packets_forwarded_in": float64(len(sizes)),
			"packets_sent": float64(len(sizes)), "bytes_sent": float64(bytes)})
		forward(nobody, packet(2, 0, 100))
		forward(nobody, packet(2, 0, 0))
		m.expect("packets from far away for nobody", numbers{"packets_forwarded_in": 2,
			"packets_dropped/unknown_dest_on_fwd/other": 2, "bytes_dropped/unknown_dest_on_fwd/other": 100})
		forward(nobody, disco(2, 0, 150))
		mesh.wantGone(nobody, derp.PeerGoneReasonNotHere)
		m.expect("disco from far away for nobody", numbers{"packets_forwarded_in": 1,
			"packets_dropped/unknown_dest_on_fwd/disco": 1, "bytes_dropped/unknown_dest_on_fwd/disco": 150,
			"peer_gone_not_here_frames": 1})
	})
}

// A flood is for somebody who does not read, of more than sockets and queues hold.
type flood struct {
	kind  string
	make  func(number uint64) []byte
	count uint64
	bytes float64
}

func newFlood(kind string) flood {
	// Not larger: derpring counts a packet as sent once the record that it begins in has left.
	const count, size = 3000, 8000
	f := flood{kind: kind, count: count, bytes: count * size}
	f.make = func(n uint64) []byte { return packet(1, n, size) }
	if kind == "disco" {
		f.make = func(n uint64) []byte { return disco(1, n, size) }
	}
	return f
}

// send returns when the relay has dealt with all of it. What arrives and what does not is open.
func (f flood) send(m *meter, from *peer, to key.NodePublic) (open []string) {
	from.t.Helper()
	for n := range f.count {
		from.send(to, f.make(n))
	}
	from.wantPong()
	for name, change := range map[string]float64{
		"packets_received": float64(f.count), "packets_received_kind/" + f.kind: float64(f.count),
		"bytes_received": f.bytes, "got_ping": 1, "sent_pong": 1,
	} {
		m.want[name] += change
	}
	return f.open("queue_head")
}

func (f flood) open(reasons ...string) []string {
	names := []string{"packets_sent", "bytes_sent"}
	for _, reason := range reasons {
		names = append(names, "packets_dropped/"+reason+"/"+f.kind, "bytes_dropped/"+reason+"/"+f.kind)
	}
	return names
}

// each insists that packets were dropped for each of these reasons, and that bytes are those of whole packets. derper counts
// no write_error when it is the flush of its buffer that fails: what is in there counts as sent.
func (f flood) each(reasons ...string) func(numbers) error {
	size := f.bytes / float64(f.count)
	return func(now numbers) error {
		var wrong []error
		for _, reason := range reasons {
			packets, bytes := now["packets_dropped/"+reason+"/"+f.kind], now["bytes_dropped/"+reason+"/"+f.kind]
			if packets < 1 && !(testingReference() && reason == "write_error") || bytes != packets*size {
				wrong = append(wrong, fmt.Errorf("%s: %v packets of %v bytes with %v bytes in all; want some", reason, packets, size, bytes))
			}
		}
		return errors.Join(wrong...)
	}
}

func overFloods(t *testing.T, writeTimeout string, f func(*testing.T, *relay, *meter, transport, flood)) {
	for _, kind := range []string{"other", "disco"} {
		for _, tr := range plainAndTLS {
			t.Run(kind+"/"+tr.name, func(t *testing.T) {
				r, m := startMetered(t, tr, "-tcp-write-timeout="+writeTimeout)
				f(t, r, m, tr, newFlood(kind))
			})
		}
	}
}

// TestCountsDropsOfSlowReader: what a receiver finds when it reads at last was sent, and all else was dropped as the oldest.
func TestCountsDropsOfSlowReader(t *testing.T) {
	overFloods(t, "0s", func(t *testing.T, r *relay, m *meter, tr transport, f flood) {
		alice, slow := join(t, r, tr, "alice"), rawLogin(t, r, tr, ordinaryInfo)
		m.expect("both are there", joined(2))
		open := f.send(m, alice, slow.public)
		m.observeStalled("nobody reads", open, f.each("queue_head"))

		got := 0.0
		for last := uint64(0); last < f.count-1; { // which is never the oldest in a queue
			slow.extend()
			kind, payload := slow.read()
			number, err := checkPacket(kind, payload, alice.public, 1)
			if err != nil {
				t.Fatal(err)
			}
			last = number
			got++
		}
		size := f.bytes / float64(f.count)
		m.observe("somebody has read", open, func(now numbers) error {
			if now["packets_sent"] != got || now["bytes_sent"] != got*size {
				return fmt.Errorf("%v packets with %v bytes are counted as sent; %v have arrived with %v", now["packets_sent"],
					now["bytes_sent"], got, got*size)
			}
			return f.each("queue_head")(now)
		})
		slow.wantAlive()
		m.expect("a ping", numbers{"got_ping": 1, "sent_pong": 1})
	})
}

// TestCountsDropsOfLeaver: a receiver leaves without having read: what waits has lost its receiver, and what was being written
// was not. (Both relays give write_error for the latter only.)
func TestCountsDropsOfLeaver(t *testing.T) {
	overFloods(t, "0s", func(t *testing.T, r *relay, m *meter, tr transport, f flood) {
		alice, slow := join(t, r, tr, "alice"), rawLogin(t, r, tr, ordinaryInfo)
		m.expect("both are there", joined(2))
		open := f.send(m, alice, slow.public)
		m.observeStalled("nobody reads", open, f.each("queue_head"))
		slow.conn.Close()
		for name, change := range left(1) {
			m.want[name] += change
		}
		m.observe("it leaves", f.open("gone_disconnected", "write_error"), f.each("gone_disconnected", "write_error"))
		alice.wantPong()
		m.expect("a ping", numbers{"got_ping": 1, "sent_pong": 1})
	})
}

// TestCountsWriteTimeouts: a receiver that takes nothing for so long is given up, and what it would have got is dropped.
func TestCountsWriteTimeouts(t *testing.T) {
	t.Parallel()
	// Long enough for the flood to be over by then: what derper gets for somebody whom it is just giving up it may lose
	// without counting it.
	overFloods(t, "4s", func(t *testing.T, r *relay, m *meter, tr transport, f flood) {
		t.Parallel() // it mostly waits
		alice, slow := join(t, r, tr, "alice"), rawLogin(t, r, tr, ordinaryInfo)
		m.expect("both are there", joined(2))
		f.send(m, alice, slow.public)
		for name, change := range left(1, numbers{"sclient_write_timeouts": 1}) {
			m.want[name] += change
		}
		reasons := []string{"queue_head", "gone_disconnected", "write_error"}
		m.observe("it is given up", f.open(reasons...), f.each(reasons...))
		alice.wantPong()
		m.expect("a ping", numbers{"got_ping": 1, "sent_pong": 1})
	})
}
