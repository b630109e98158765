package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"go4.org/mem"
	"tailscale.com/derp"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// A raw session is a logged-in connection whose frames the test writes and reads itself.
type raw struct {
	t       testing.TB
	conn    net.Conn
	reader  *bufio.Reader
	private key.NodePrivate
	public  key.NodePublic
	server  key.NodePublic
}

// rawDial connects without sending anything.
func rawDial(t testing.TB, r *relay, tr transport) *raw {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := tr.dial(ctx, r)
	if err != nil {
		t.Fatalf("dialling the relay: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	return rawOver(t, conn)
}

// rawOver is a session, not yet logged in, over a connection that somebody else made and will close.
func rawOver(t testing.TB, conn net.Conn) *raw {
	private := key.NewNode()
	s := &raw{t: t, conn: conn, reader: bufio.NewReader(conn), private: private, public: private.Public()}
	s.extend()
	return s
}

// extend gives the relay a new full measure of patience.
func (s *raw) extend() { s.conn.SetDeadline(time.Now().Add(patience)) }

// rawUpgrade connects and does the ordinary upgrade, up to and including ServerKey.
func rawUpgrade(t testing.TB, r *relay, tr transport) *raw {
	t.Helper()
	s := rawDial(t, r, tr)
	s.write([]byte(upgradeRequest(r)))
	resp, err := http.ReadResponse(s.reader, nil)
	if err != nil {
		t.Fatalf("reading the answer to the upgrade: %v", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the upgrade is answered with %s; want 101", resp.Status)
	}
	s.wantServerKey()
	return s
}

func upgradeRequest(r *relay, headers ...string) string {
	request := "GET /derp HTTP/1.1\r\nHost: " + r.spec.host + "\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n"
	for _, header := range headers {
		request += header + "\r\n"
	}
	return request + "\r\n"
}

// rawLogin connects, upgrades and logs in with this ClientInfo, up to and including ServerInfo.
func rawLogin(t testing.TB, r *relay, tr transport, info string) *raw {
	t.Helper()
	s := rawUpgrade(t, r, tr)
	s.write(frame(derp.FrameClientInfo, s.clientInfo(info)))
	s.wantServerInfo()
	return s
}

const ordinaryInfo = `{"version":2,"CanAckPings":true}`

func meshInfo() string { return fmt.Sprintf(`{"version":2,"meshKey":%q}`, scratch.meshKey) }

func (s *raw) clientInfo(info string) []byte {
	return append(s.public.AppendTo(nil), s.private.SealTo(s.server, []byte(info))...)
}

func (s *raw) wantServerKey() {
	s.t.Helper()
	kind, payload := s.read()
	if kind != derp.FrameServerKey || len(payload) != 40 || !bytes.HasPrefix(payload, []byte(derp.Magic)) {
		s.t.Fatalf("got frame %#02x %x; want ServerKey: the magic and 32 bytes of key", byte(kind), payload)
	}
	s.server = publicKey(payload[len(derp.Magic):])
}

func (s *raw) wantServerInfo() {
	s.t.Helper()
	kind, payload := s.read()
	if kind != derp.FrameServerInfo {
		s.t.Fatalf("got frame %#02x with %d bytes; want ServerInfo", byte(kind), len(payload))
	}
	if info, ok := s.private.OpenFrom(s.server, payload); !ok {
		s.t.Fatalf("ServerInfo is not sealed by the key in ServerKey for ours")
	} else if want := `{"version":2}`; string(info) != want {
		s.t.Fatalf("ServerInfo says %s; want %s", info, want)
	}
}

// write sends bytes as one write, and so as one TLS record where they fit.
func (s *raw) write(b []byte) {
	s.t.Helper()
	if _, err := s.conn.Write(b); err != nil {
		s.t.Fatalf("writing %d bytes to the relay: %v", len(b), err)
	}
}

// tryRead reads one frame. An end between two frames is io.EOF.
func (s *raw) tryRead() (derp.FrameType, []byte, error) {
	var header [derp.FrameHeaderLen]byte
	if _, err := io.ReadFull(s.reader, header[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(header[1:])
	if size > 1<<20 {
		return 0, nil, fmt.Errorf("frame %#02x claims %d bytes, which no client accepts", header[0], size)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(s.reader, payload); err != nil {
		return 0, nil, fmt.Errorf("inside frame %#02x: %w", header[0], err)
	}
	return derp.FrameType(header[0]), payload, nil
}

// read is the next frame that is not a keepalive.
func (s *raw) read() (derp.FrameType, []byte) {
	s.t.Helper()
	for {
		kind, payload, err := s.tryRead()
		if err != nil {
			s.t.Fatalf("reading a frame: %v", err)
		}
		if kind != derp.FrameKeepAlive {
			return kind, payload
		}
	}
}

func (s *raw) wantFrame(kind derp.FrameType, payload []byte) {
	s.t.Helper()
	gotKind, got := s.read()
	if gotKind != kind {
		s.t.Fatalf("got frame %#02x with %d bytes; want %#02x with %d", byte(gotKind), len(got), byte(kind), len(payload))
	}
	if !bytes.Equal(got, payload) {
		s.t.Fatalf("frame %#02x carries other bytes than expected: %s", byte(kind), difference(got, payload))
	}
}

// wantAlive insists that the relay still serves this connection.
func (s *raw) wantAlive() {
	s.t.Helper()
	payload := []byte("still up")
	s.write(frame(derp.FramePing, payload))
	s.wantFrame(derp.FramePong, payload)
}

// wantClosed insists that the relay ends the connection, whatever it says before.
func (s *raw) wantClosed(why string) {
	s.t.Helper()
	_, err := io.Copy(io.Discard, s.reader)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.t.Fatalf("still connected after %v; want it closed: %s", patience, why)
	}
}

func frame(kind derp.FrameType, parts ...[]byte) []byte {
	payload := bytes.Join(parts, nil)
	return append(frameHeader(kind, uint32(len(payload))), payload...)
}

func frameHeader(kind derp.FrameType, size uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{byte(kind)}, size)
}

// derpClient turns an upgraded connection into the library's frame-level client.
func derpClient(conn net.Conn, private key.NodePrivate, options ...derp.ClientOpt) (*derp.Client, error) {
	brw := bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn))
	return derp.NewClient(private, conn, brw, logger.Discard, options...)
}

func publicKey(b []byte) key.NodePublic { return key.NodePublicFromRaw32(mem.B(b)) }
