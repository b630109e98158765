package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// TestPing: the real client's own ping, and the bytes of it.
func TestPing(t *testing.T) {
	overTransports(t, allTransports, func(t *testing.T, r *relay, tr transport) {
		alice := join(t, r, tr, "alice")
		for range 20 {
			if err := alice.client.Ping(t.Context()); err != nil {
				t.Fatalf("the client's ping: %v", err)
			}
		}
		alice.wantPong()
		s := rawLogin(t, r, tr, ordinaryInfo)
		// What follows the first eight bytes is for the future, and not echoed.
		for _, size := range []int{8, 9, 100, 1000} {
			payload := packet(1, uint64(size), size)
			s.write(frame(derp.FramePing, payload))
			s.wantFrame(derp.FramePong, payload[:8])
		}
	})
}

// TestIllegalFrames: each of these ends the connection of whoever sends it.
func TestIllegalFrames(t *testing.T) {
	zeros := make([]byte, 128<<10)
	for _, c := range []struct {
		why  string
		mesh bool // so that the length is what offends
		send []byte
	}{
		{"NotePreferred without its byte", false, frame(derp.FrameNotePreferred)},
		{"NotePreferred of two bytes", false, frame(derp.FrameNotePreferred, zeros[:2])},
		{"SendPacket shorter than a key", false, frame(derp.FrameSendPacket, zeros[:31])},
		{"SendPacket of 65537 bytes", false, append(frameHeader(derp.FrameSendPacket, 32+65537), zeros[:32]...)},
		{"SendPacket of 4 GiB", false, append(frameHeader(derp.FrameSendPacket, 1<<32-1), zeros[:32]...)},
		{"Ping of 7 bytes", false, frame(derp.FramePing, zeros[:7])},
		{"Ping of 1001 bytes", false, frameHeader(derp.FramePing, 1001)},
		{"WatchConns with a payload", true, frame(derp.FrameWatchConns, zeros[:1])},
		{"ClosePeer of 31 bytes", true, frame(derp.FrameClosePeer, zeros[:31])},
		{"ClosePeer of 33 bytes", true, frame(derp.FrameClosePeer, zeros[:33])},
		{"ForwardPacket shorter than two keys", true, frame(derp.FrameForwardPacket, zeros[:63])},
		{"ForwardPacket of 65537 bytes", true, append(frameHeader(derp.FrameForwardPacket, 64+65537), zeros[:64]...)},
	} {
		overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
			info := ordinaryInfo
			if c.mesh {
				info = meshInfo()
			}
			s := rawLogin(t, r, tr, info)
			s.write(c.send)
			s.wantClosed(c.why)
		})
	}
}

// TestIgnoredFrames: frames from the future, and those that only a relay sends, are passed over whatever their length.
func TestIgnoredFrames(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		s := rawLogin(t, r, tr, ordinaryInfo)
		for _, kind := range []derp.FrameType{
			0x00, derp.FrameServerKey, derp.FrameClientInfo, derp.FrameServerInfo, derp.FrameRecvPacket, derp.FrameKeepAlive,
			derp.FramePeerGone, derp.FramePeerPresent, derp.FramePong, derp.FrameHealth, derp.FrameRestarting, 0x0b, 0x7f, 0xff,
		} {
			for _, size := range []int{0, 1, 8, 40, 5000, 300_000} {
				s.extend()
				s.write(frame(kind, packet(uint64(kind), uint64(size), size)))
			}
			s.wantAlive()
		}
	})
}

// TestNotePreferred: any single byte will do, and nobody answers.
func TestNotePreferred(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		alice := join(t, r, tr, "alice")
		for _, home := range []bool{true, false, true} {
			alice.client.NotePreferred(home)
			alice.wantPong()
		}
		s := rawLogin(t, r, tr, ordinaryInfo)
		for _, b := range []byte{0, 1, 2, 255, 255} {
			s.write(frame(derp.FrameNotePreferred, []byte{b}))
		}
		s.wantAlive()
	})
}

// TestHomeGauge: NotePreferred and connections are counted where derper counts them.
func TestHomeGauge(t *testing.T) {
	r := startRelay(t, relaySpec{asDerper: true})
	gauges := func() string {
		resp, err := http.Get("http://" + r.addr() + "/debug/vars")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var vars struct {
			Derp struct {
				Home    int `json:"gauge_current_home_connections"`
				Current int `json:"gauge_current_connections"`
				Local   int `json:"gauge_clients_local"`
			} `json:"derp"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&vars); err != nil {
			t.Fatalf("/debug/vars, %s: %v", resp.Status, err)
		}
		return fmt.Sprintf("home %d, connections %d, keys %d", vars.Derp.Home, vars.Derp.Current, vars.Derp.Local)
	}
	eventually := func(want string) {
		t.Helper()
		deadline := time.Now().Add(patience)
		for got := gauges(); got != want; got = gauges() {
			if time.Now().After(deadline) {
				t.Fatalf("/debug/vars says %s; want %s", got, want)
			}
			time.Sleep(10 * time.Millisecond) // a gauge announces nothing
		}
	}
	eventually("home 0, connections 0, keys 0")
	alice, bob := join(t, r, plain, "alice"), join(t, r, plain, "bob")
	eventually("home 0, connections 2, keys 2")
	alice.client.NotePreferred(true)
	bob.client.NotePreferred(true)
	eventually("home 2, connections 2, keys 2")
	bob.client.NotePreferred(false)
	eventually("home 1, connections 2, keys 2")
	again := join(t, r, plain, "alice again", withKey(alice.private))
	eventually("home 1, connections 3, keys 2")
	alice.leave()
	eventually("home 0, connections 2, keys 2")
	again.leave()
	eventually("home 0, connections 1, keys 1")
}

// TestPeerGoneDisconnected: whoever got packets from a peer hears, after them, that it left; nobody else does.
func TestPeerGoneDisconnected(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		alice, bob, carol := join(t, r, tr, "alice"), join(t, r, tr, "bob"), join(t, r, tr, "carol")
		watcher := join(t, r, tr, "watcher", watching())
		wantPresent(t, watcher, alice, derp.PeerPresentIsRegular)
		data := packet(1, 1, 100)
		alice.send(bob.public, data)
		bob.wantPacket(alice.public, data)
		bob.send(alice.public, data)
		alice.wantPacket(bob.public, data)
		carol.send(alice.public, data) // which makes carol nobody's reader
		alice.wantPacket(carol.public, data)

		alice.leave()
		bob.wantGone(alice.public, derp.PeerGoneReasonDisconnected)
		watcher.seek("alice's departure", isGone(alice.public))
		bob.send(carol.public, data)
		carol.wantPacket(bob.public, data)
		bob.wantPong()
		carol.wantPong()
	})
}

// TestPeerGoneEachTime: a peer that comes back, sends, and leaves again is reported again.
func TestPeerGoneEachTime(t *testing.T) {
	skipReference(t, "a connection hears of a source's departure only once in its lifetime")
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		bob := join(t, r, tr, "bob")
		private := key.NewNode()
		for n := range uint64(4) {
			alice := join(t, r, tr, "alice", withKey(private))
			data := packet(1, n, 100)
			alice.send(bob.public, data)
			bob.wantPacket(alice.public, data)
			alice.leave()
			bob.wantGone(alice.public, derp.PeerGoneReasonDisconnected)
		}
		// One visit without a word, which bob need not hear of.
		silent := join(t, r, tr, "silent alice", withKey(private))
		silent.leave()
		bob.wantPong()
	})
}

// TestPeerGoneAfterSendAndClose: a peer that sends and closes at once is reported too, behind everything it sent.
func TestPeerGoneAfterSendAndClose(t *testing.T) {
	skipReference(t, "a departure is lost when it comes before the source's first packet is written, and may overtake its packets")
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		bob := join(t, r, tr, "bob")
		for n := range uint64(60) {
			alice := join(t, r, tr, fmt.Sprintf("alice %d", n))
			count := n % 4
			for m := range count + 1 {
				alice.send(bob.public, packet(n, m, 1400))
			}
			alice.leave()
			for m := range count + 1 {
				bob.wantPacket(alice.public, packet(n, m, 1400))
			}
			bob.wantGone(alice.public, derp.PeerGoneReasonDisconnected)
		}
	})
}

// TestManyDepartures: each of many peers that wrote to one is reported exactly once when they leave together.
func TestManyDepartures(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		hub := join(t, r, tr, "hub")
		left := make(map[key.NodePublic]string)
		var spokes []*peer
		for n := range uint64(30) {
			p := join(t, r, tr, fmt.Sprintf("spoke %d", n))
			p.send(hub.public, packet(1, n, 64))
			hub.wantPacket(p.public, packet(1, n, 64))
			left[p.public] = p.name
			spokes = append(spokes, p)
		}
		for _, p := range spokes {
			p.leave()
		}
		for len(left) > 0 {
			m, err := hub.next()
			if err != nil {
				t.Fatalf("still waiting for the departure of %v: %v", left, err)
			}
			gone, ok := m.(derp.PeerGoneMessage)
			if _, expected := left[gone.Peer]; !ok || !expected || gone.Reason != derp.PeerGoneReasonDisconnected {
				t.Fatalf("the hub got %s; want the departure of one of %v", describe(m), left)
			}
			delete(left, gone.Peer)
		}
		hub.wantPong()
	})
}

// TestPeerGoneNotHere: only disco packets to an unknown key are answered, and not without limit.
func TestPeerGoneNotHere(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		alice := join(t, r, tr, "alice")
		unknown, nobody := key.NewNode().Public(), key.NewNode().Public()
		// None of these is disco: ordinary, empty, one byte too short, one wrong byte.
		almost := disco(1, 1, 100)
		almost[5] ^= 1
		for _, data := range [][]byte{packet(1, 1, 100), nil, append(bytes.Clone(discoMagic), make([]byte, discoMin-1-6)...), almost} {
			alice.send(nobody, data)
		}
		alice.wantPong()
		alice.send(unknown, append(bytes.Clone(discoMagic), make([]byte, discoMin-6)...))
		alice.wantGone(unknown, derp.PeerGoneReasonNotHere)
		alice.wantPong()
	})
}

// TestNotHereIsLimited: asking for unknown keys all the time does not make the relay answer all the time.
func TestNotHereIsLimited(t *testing.T) {
	r := sharedRelay(t, false)
	alice := join(t, r, plain, "alice")
	begin := time.Now()
	const asked = 200
	for n := range uint64(asked) {
		alice.send(key.NewNode().Public(), disco(1, n, 100))
	}
	last := []byte("that was all")
	alice.send(alice.public, last)
	answers := 0
	alice.seek("its own packet", func(m derp.ReceivedMessage) bool {
		if _, ok := m.(derp.PeerGoneMessage); ok {
			answers++
		}
		packet, ok := m.(derp.ReceivedPacket)
		return ok && bytes.Equal(packet.Data, last)
	})
	// Three at once and one each second, and one for the second that has begun.
	if limit := 3 + int(time.Since(begin)/time.Second) + 1; answers > limit {
		t.Errorf("%d questions got %d answers; want at most %d", asked, answers, limit)
	}
}

func isGone(who key.NodePublic) func(derp.ReceivedMessage) bool {
	return func(m derp.ReceivedMessage) bool {
		return m == derp.PeerGoneMessage{Peer: who, Reason: derp.PeerGoneReasonDisconnected}
	}
}
