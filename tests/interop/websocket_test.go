package interop

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"testing"

	"github.com/coder/websocket"
	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// TestWebSocket: browsers speak DERP inside WebSocket messages, whose borders mean nothing. The peer on the other side does
// not notice.
func TestWebSocket(t *testing.T) {
	overTransports(t, []transport{plain, tls13, tls12}, func(t *testing.T, r *relay, tr transport) {
		bob := join(t, r, tr, "bob")
		private := key.NewNode()
		alice, err := derpClient(dialWebSocket(t, r, tr), private)
		if err != nil {
			t.Fatalf("logging in over WebSocket: %v", err)
		}
		if got, want := alice.ServerPublicKey(), bob.client.ServerPublicKey(); got != want {
			t.Errorf("over WebSocket the relay's key is %v; want %v", got, want)
		}
		if m, err := alice.Recv(); err != nil || m != (derp.ServerInfoMessage{}) {
			t.Fatalf("got %v, %v; want ServerInfo without limits", m, err)
		}
		for n, size := range sizes {
			data := packet(1, uint64(n), size)
			if testingReference() && size > 32000 {
				continue // derper takes no message of more than 32768 bytes
			}
			if err := alice.Send(bob.public, data); err != nil {
				t.Fatal(err)
			}
			bob.wantPacket(private.Public(), data)
		}
		for n, size := range sizes {
			data := packet(2, uint64(n), size)
			bob.send(private.Public(), data)
			m, err := alice.Recv()
			if err != nil {
				t.Fatalf("waiting for a packet of %d bytes: %v", size, err)
			}
			got, ok := m.(derp.ReceivedPacket)
			if !ok || got.Source != bob.public || string(got.Data) != string(data) {
				t.Fatalf("got %s; want the packet of %d bytes that bob sent", describe(m), size)
			}
		}
	})
}

// TestWebSocketMessages: frames cut into messages anywhere, and several frames in one message.
func TestWebSocketMessages(t *testing.T) {
	r := sharedRelay(t, false)
	bob := join(t, r, plain, "bob")
	conn := dialWebSocket(t, r, plain)
	s := rawOver(t, conn)
	s.wantServerKey()
	login := frame(derp.FrameClientInfo, s.clientInfo(ordinaryInfo))
	for i := range login {
		s.write(login[i : i+1])
	}
	s.wantServerInfo()
	var all []byte
	for n := range uint64(10) {
		all = append(all, frame(derp.FrameSendPacket, bob.public.AppendTo(nil), packet(1, n, 100))...)
	}
	for _, size := range []int{len(all), 137, 100, 5, 1} {
		s.extend()
		for rest := all; len(rest) > 0; {
			cut := min(size, len(rest))
			s.write(rest[:cut])
			rest = rest[cut:]
		}
		for n := range uint64(10) {
			bob.wantPacket(s.public, packet(1, n, 100))
		}
	}
	s.wantAlive()
	conn.Close()
	bob.wantGone(s.public, derp.PeerGoneReasonDisconnected)
}

// dialWebSocket connects with the subprotocol that asks for DERP. Each write is one message.
func dialWebSocket(t *testing.T, r *relay, tr transport) net.Conn {
	t.Helper()
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, r.addr())
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial}}
	if tr.config != nil {
		config := tr.config()
		config.ServerName = relayHost
		client.Transport = &http.Transport{
			DialContext: dial, TLSClientConfig: config, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, r.url("/derp"), &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{"derp"}})
	if err != nil {
		t.Fatalf("opening a WebSocket: %v", err)
	}
	if got := ws.Subprotocol(); got != "derp" {
		t.Errorf("the relay chose the subprotocol %q; want derp", got)
	}
	ws.SetReadLimit(1 << 20)
	conn := websocket.NetConn(context.WithoutCancel(t.Context()), ws, websocket.MessageBinary)
	t.Cleanup(func() { ws.CloseNow() })
	return conn
}
