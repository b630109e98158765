//go:build ts_debug_websockets

// Tailscale's own client speaks WebSocket in browsers, and elsewhere where it was built for finding faults.

package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/envknob"
	"tailscale.com/types/key"
)

// inBrowsers lets derphttp's clients use WebSockets, and http's default client, which they use for it, find the relay.
func inBrowsers(t *testing.T, r *relay, tr transport) {
	const knob = "TS_DEBUG_DERP_WS_CLIENT"
	before := http.DefaultTransport
	through := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, r.addr())
		},
		// WebSocket is of HTTP/1.1.
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	if tr.config != nil {
		through.TLSClientConfig = tr.config()
	}
	http.DefaultTransport = through
	envknob.Setenv(knob, "true")
	t.Cleanup(func() {
		envknob.Setenv(knob, "false")
		http.DefaultTransport = before
	})
}

// joinBrowser is join for a client inside of a WebSocket.
func joinBrowser(t *testing.T, r *relay, tr transport, name string, options ...peerOption) *peer {
	t.Helper()
	var p *peer
	t.Run("joining "+name, func(s *testing.T) {
		inBrowsers(s, r, tr)
		var err error
		if p, err = tryJoin(t, r, tr, name, options...); err != nil {
			s.Fatal(err)
		}
	})
	if p == nil || t.Failed() {
		t.FailNow()
	}
	if p.conn.Conn != nil {
		t.Fatalf("%s has not come by WebSocket", name)
	}
	return p
}

// small: derper takes messages of 32768 bytes, and sends larger ones than its clients take; a packet is a message.
func small(size int) bool { return size <= 32000 || !testingReference() }

// TestWebSocketTailscale: packets of every size between clients in WebSockets, and between them and others.
func TestWebSocketTailscale(t *testing.T) {
	overTransports(t, []transport{plain, tls13, tls12}, func(t *testing.T, r *relay, tr transport) {
		alice, carol := joinBrowser(t, r, tr, "alice"), joinBrowser(t, r, tr, "carol")
		bob := join(t, r, tr, "bob")
		if got, want := alice.client.ServerPublicKey(), bob.client.ServerPublicKey(); got != want {
			t.Errorf("over WebSocket the relay's key is %v; want %v", got, want)
		}
		for tag, pair := range [][2]*peer{{alice, bob}, {bob, alice}, {alice, carol}, {alice, alice}} {
			from, to := pair[0], pair[1]
			for n, size := range append(sizes, 32<<10, 60<<10) {
				if small(size) {
					data := packet(uint64(tag), uint64(n), size)
					from.send(to.public, data)
					to.wantPacket(from.public, data)
				}
			}
			if small(maxPacket) {
				// More than any message, and one behind the other.
				for n := range uint64(20) {
					from.send(to.public, packet(uint64(tag), n, maxPacket-int(n)))
				}
				for n := range uint64(20) {
					to.wantPacket(from.public, packet(uint64(tag), n, maxPacket-int(n)))
				}
			}
		}
		alice.wantPong()
		alice.send(key.NewNode().Public(), disco(9, 1, discoMin+stampBytes))
		if m, err := alice.next(); err != nil || m.(derp.PeerGoneMessage).Reason != derp.PeerGoneReasonNotHere {
			t.Errorf("got %v, %v for a disco packet to nobody; want PeerGone(not here)", m, err)
		}
		alice.leave()
		carol.wantGone(alice.public, derp.PeerGoneReasonDisconnected)
		bob.wantGone(alice.public, derp.PeerGoneReasonDisconnected)
	})
}

// TestWebSocketMesh: a watcher in a WebSocket hears of everybody, and may end one, whose client is told in WebSocket's words.
func TestWebSocketMesh(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		watcher := wsDial(t, r, tr)
		watcher.wantServerKey()
		watcher.loginAs(meshInfo())
		watcher.write(wsMessage(frame(derp.FrameWatchConns)))
		alice, bob := wsLogin(t, r, tr), rawLogin(t, r, tr, ordinaryInfo)
		watcher.seek(derp.FramePeerPresent, alice.public)
		watcher.seek(derp.FramePeerPresent, bob.public)
		watcher.write(wsMessage(frame(derp.FrameClosePeer, alice.public.AppendTo(nil))))
		if testingReference() { // derper says nothing at all
			alice.wantEnded()
		} else {
			alice.wantClose(1000, 1008)
		}
		watcher.seek(derp.FramePeerGone, alice.public)
		forwarded := append(alice.public.AppendTo(nil), bob.public.AppendTo(nil)...)
		watcher.write(wsMessage(frame(derp.FrameForwardPacket, forwarded, packet(6, 1, 20000))))
		bob.wantFrame(derp.FrameRecvPacket, append(alice.public.AppendTo(nil), packet(6, 1, 20000)...))
	})
}

// seek passes over what is about others, who may be anybody.
func (w *wsConn) seek(kind derp.FrameType, about key.NodePublic) {
	w.t.Helper()
	for {
		e := w.event()
		if e.opcode != opBinary || e.ended {
			w.t.Fatalf("got %v (%v); want frame %#02x about %v", e, e.err, byte(kind), about)
		}
		if e.kind == kind && bytes.HasPrefix(e.payload, about.AppendTo(nil)) {
			return
		}
	}
}

// TestWebSocketDuplicate: one key inside and outside of a WebSocket is one client, and the newest connection gets the packets.
func TestWebSocketDuplicate(t *testing.T) {
	r := sharedRelay(t, false)
	bob, private := join(t, r, plain, "bob"), key.NewNode()
	outside := join(t, r, plain, "outside", withDisputedKey(private))
	within := joinBrowser(t, r, plain, "within", withDisputedKey(private))
	bob.send(private.Public(), packet(1, 1, 100))
	within.wantPacket(bob.public, packet(1, 1, 100))
	again := join(t, r, plain, "outside again", withDisputedKey(private))
	bob.send(private.Public(), packet(1, 2, 100))
	again.wantPacket(bob.public, packet(1, 2, 100))
	within.wantPong()
	outside.wantPong()
}

// TestWebSocketRestart: at the end of the relay a client hears Restarting, and then that the relay goes away.
func TestWebSocketRestart(t *testing.T) {
	skipReference(t, "ends at once and never sends Restarting")
	for _, tr := range []transport{plain, tls13, tls12} {
		t.Run(tr.name, func(t *testing.T) {
			r := startRelay(t, relaySpec{tls: tr.tls})
			bare := wsLogin(t, r, tr)
			var peers []*peer
			for n := range 4 {
				peers = append(peers, joinBrowser(t, r, tr, fmt.Sprintf("peer %d", n)))
			}
			if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			bare.wantDERP(derp.FrameRestarting)
			bare.wantClose(1001)
			for _, p := range peers {
				m, err := p.next()
				if _, ok := m.(derp.ServerRestartingMessage); !ok {
					t.Fatalf("%s got %v, %v; want Restarting", p.name, m, err)
				}
				p.wantClosed("the relay ends")
			}
			select {
			case <-r.gone:
				if r.status != nil {
					t.Errorf("the relay ended with %v; want success", r.status)
				}
			case <-time.After(patience):
				t.Errorf("the relay still runs %v after SIGTERM", patience)
			}
		})
	}
}
