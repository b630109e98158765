package interop

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"tailscale.com/derp"
)

const (
	wsProtocol = "Sec-WebSocket-Protocol: derp"
	wsVersion  = "Sec-WebSocket-Version: 13"
	wsKeyLine  = "Sec-WebSocket-Key: " + wsKey
)

// upgrading is a request for /derp with these lines behind the first and Host.
func upgrading(start string, lines ...string) string {
	return start + "\r\nHost: " + relayHost + "\r\n" + strings.Join(append(lines, "\r\n"), "\r\n")
}

// TestWebSocketUpgrade: which requests become a WebSocket (RFC 6455, section 4.2.1), which fall through to raw DERP, as those
// of clients from before WebSockets do, and which get an error that says what is missing.
func TestWebSocketUpgrade(t *testing.T) {
	const get, up, conn = "GET /derp HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade"
	for _, c := range []struct {
		name    string
		request string
		status  int
		header  string // of the answer, "Name: value"
	}{
		{"as browsers do", upgrading(get, up, conn, wsVersion, wsKeyLine, wsProtocol, "Origin: https://app.example"), 101, ""},
		{"case of Upgrade", upgrading(get, "Upgrade: WebSocket", conn, wsVersion, wsKeyLine, wsProtocol), 101, ""},
		{"Connection among others", upgrading(get, up, "Connection: keep-alive, Upgrade", wsVersion, wsKeyLine, wsProtocol), 101, ""},
		{"Connection on two lines", upgrading(get, up, "Connection: keep-alive", "Connection: upgrade", wsVersion, wsKeyLine, wsProtocol), 101, ""},
		{"names in lower case", upgrading(get, "upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13",
			"sec-websocket-key: "+wsKey, "sec-websocket-protocol: derp"), 101, ""},
		{"protocol among others", upgrading(get, up, conn, wsVersion, wsKeyLine, "Sec-WebSocket-Protocol: chat, derp"), 101, wsProtocol},
		{"white space around the key", upgrading(get, up, conn, wsVersion, "Sec-WebSocket-Key:   "+wsKey+"  ", wsProtocol), 101, ""},
		{"origin null", upgrading(get, up, conn, wsVersion, wsKeyLine, wsProtocol, "Origin: null"), 101, ""},
		{"origin of a file", upgrading(get, up, conn, wsVersion, wsKeyLine, wsProtocol, "Origin: file://"), 101, ""},
		{"origin with a port", upgrading(get, up, conn, wsVersion, wsKeyLine, wsProtocol, "Origin: http://localhost:8000"), 101, ""},
		{"query", upgrading("GET /derp?region=1 HTTP/1.1", up, conn, wsVersion, wsKeyLine, wsProtocol), 101, ""},
		{"fast start", upgrading(get, up, conn, wsVersion, wsKeyLine, wsProtocol, "Derp-Fast-Start: 1"), 101, ""},
		{"origin that is no URL", upgrading(get, up, conn, wsVersion, wsKeyLine, wsProtocol, "Origin: http://a b/"), 403, ""},
		{"no Connection", upgrading(get, up, wsVersion, wsKeyLine, wsProtocol), 426, "Upgrade: websocket"},
		{"another Connection", upgrading(get, up, "Connection: keep-alive", wsVersion, wsKeyLine, wsProtocol), 426, "Connection: Upgrade"},
		{"HTTP/1.0", upgrading("GET /derp HTTP/1.0", up, conn, wsVersion, wsKeyLine, wsProtocol), 426, ""},
		{"POST", upgrading("POST /derp HTTP/1.1", up, conn, wsVersion, wsKeyLine, wsProtocol, "Content-Length: 0"), 405, ""},
		{"HEAD", upgrading("HEAD /derp HTTP/1.1", up, conn, wsVersion, wsKeyLine, wsProtocol), 405, ""},
		{"version 8", upgrading(get, up, conn, "Sec-WebSocket-Version: 8", wsKeyLine, wsProtocol), 400, wsVersion},
		{"version 14", upgrading(get, up, conn, "Sec-WebSocket-Version: 14", wsKeyLine, wsProtocol), 400, wsVersion},
		{"no version", upgrading(get, up, conn, wsKeyLine, wsProtocol), 400, wsVersion},
		{"no key", upgrading(get, up, conn, wsVersion, wsProtocol), 400, ""},
		{"two keys", upgrading(get, up, conn, wsVersion, wsKeyLine, wsKeyLine, wsProtocol), 400, ""},
		{"key of 15 bytes", upgrading(get, up, conn, wsVersion, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA", wsProtocol), 400, ""},
		{"key that is not base64", upgrading(get, up, conn, wsVersion, "Sec-WebSocket-Key: not@base64not@base64no==", wsProtocol), 400, ""},
		{"empty key", upgrading(get, up, conn, wsVersion, "Sec-WebSocket-Key: ", wsProtocol), 400, ""},
		{"raw, without a protocol", upgrading(get, up, conn, wsVersion, wsKeyLine), 101, "Derp-Version: 2"},
		{"raw, with another protocol", upgrading(get, up, conn, wsVersion, wsKeyLine, "Sec-WebSocket-Protocol: chat"), 101, "Derp-Version: 2"},
		{"raw, with the protocol in capitals", upgrading(get, up, conn, wsVersion, wsKeyLine, "Sec-WebSocket-Protocol: DERP"), 101, "Derp-Version: 2"},
		{"raw, as old clients did", upgrading(get, "Upgrade: WebSocket", conn), 101, "Derp-Version: 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
				w := wsRequest(t, r, tr, c.request)
				if w.head.StatusCode != c.status {
					body, _ := io.ReadAll(w.head.Body)
					t.Fatalf("answered with %s, %q; want %d", w.head.Status, body, c.status)
				}
				if name, want, _ := strings.Cut(c.header, ": "); w.head.Header.Get(name) != want && c.header != "" {
					t.Errorf("%s of the answer is %q; want %q", name, w.head.Header.Get(name), want)
				}
				switch {
				case c.status != http.StatusSwitchingProtocols:
				case strings.HasPrefix(c.header, "Derp-"):
					rawOver(t, bufferedConn{w.conn, w.reader}).wantServerKey()
				default:
					w.wantUpgraded("derp")
					w.wantServerKey()
					w.login()
					w.wantAlive()
				}
			})
		})
	}
}

// TestWebSocketRefusedAfterUpgrade: who names protocols of which one looks like ours is upgraded, and then told.
func TestWebSocketRefusedAfterUpgrade(t *testing.T) {
	for _, protocols := range []string{"derpx", "chat, derp2", "xderp"} {
		t.Run(protocols, func(t *testing.T) {
			overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
				w := wsRequest(t, r, tr, wsHandshake(relayHost, "Sec-WebSocket-Protocol: "+protocols))
				w.wantUpgraded("")
				w.wantClose(1008)
			})
		})
	}
}

// TestWebSocketBehindRequests: a connection that has been used for other things may still become a WebSocket.
func TestWebSocketBehindRequests(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		probe := upgrading("GET /derp/probe HTTP/1.1")
		w := wsRequest(t, r, tr, probe+probe+wsHandshake(relayHost, wsProtocol))
		for range 2 {
			if w.head.StatusCode != http.StatusOK {
				t.Fatalf("/derp/probe is answered with %s", w.head.Status)
			}
			io.Copy(io.Discard, w.head.Body)
			var err error
			if w.head, err = http.ReadResponse(w.reader, nil); err != nil {
				t.Fatal(err)
			}
		}
		w.wantUpgraded("derp")
		w.wantServerKey()
		w.login()
		w.wantAlive()
	})
}

// TestWebSocketEarly: bytes behind the request, in the same write, are the WebSocket's.
func TestWebSocketEarly(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		// Its key is asked first, as ClientInfo is sealed for it.
		known := wsLogin(t, r, tr)
		known.server = wsLogin(t, r, tr).server
		login := wsMessage(known.clientInfo(0))
		for _, cut := range []int{1, 5, len(login) / 2, len(login)} {
			early := append(wsPing("early"), login[:cut]...)
			w := wsRequest(t, r, tr, wsHandshake(relayHost, wsProtocol)+string(early))
			w.private, w.public = known.private, known.public
			w.wantUpgraded("derp")
			w.tryWrite(login[cut:])
			events := map[string]bool{}
			for !w.loggedIn {
				e := w.event()
				if e.ended {
					t.Fatalf("ended with %v after %v", e.err, events)
				}
				if events[e.String()] = true; e.opcode == opBinary && e.kind == derp.FrameServerKey {
					w.server = known.server
				} else if e.opcode == opBinary && e.kind == derp.FrameServerInfo {
					w.wantServerInfo(e.payload)
				}
			}
			if !events["pong(early)"] {
				t.Errorf("with %d bytes of the login behind the request, its events are %v; want a pong among them", cut, events)
			}
			w.conn.Close()
		}
	})
}

// TestWebSocketIdealNode: a client that had to take another relay says so in the same header on every path.
func TestWebSocketIdealNode(t *testing.T) {
	skipReference(t, "does not look at Ideal-Node of a WebSocket")
	r := sharedRelay(t, false)
	watcher := join(t, r, plain, "watcher", watching())
	for _, c := range []struct {
		header string
		want   derp.PeerPresentFlags
	}{{"X-Nothing: special", derp.PeerPresentIsRegular}, {"Ideal-Node: 900b", derp.PeerPresentNotIdeal}} {
		w := wsRequest(t, r, plain, wsHandshake(relayHost, wsProtocol, c.header))
		w.wantUpgraded("derp")
		w.wantServerKey()
		w.login()
		m := watcher.seek("PeerPresent of the WebSocket", func(m derp.ReceivedMessage) bool {
			present, ok := m.(derp.PeerPresentMessage)
			return ok && present.Key == w.public
		})
		present := m.(derp.PeerPresentMessage)
		if present.Flags != c.want {
			t.Errorf("with %s the flags are %d; want %d", c.header, present.Flags, c.want)
		}
		if present.IPPort.String() != w.conn.LocalAddr().String() {
			t.Errorf("the watcher is told of %v; the client is at %v", present.IPPort, w.conn.LocalAddr())
		}
	}
}

// bufferedConn reads first what was read ahead.
type bufferedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (c bufferedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }
