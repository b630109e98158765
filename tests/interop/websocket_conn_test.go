package interop

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa
)

// wsFrame is a frame as a client sends it, or as one should not.
type wsFrame struct {
	opcode  byte
	payload []byte
	more    bool // FIN is not set
	rsv     byte // three bits
	bare    bool // without a mask
	zero    bool // masked with zeros, which is a mask like any other
	// form is how the length is written where it is not the shortest way: 16 or 64 bits.
	form int
	// claims is the length in the header where it is not that of the payload.
	claims uint64
}

func (f wsFrame) bytes() []byte {
	first := f.rsv<<4 | f.opcode
	if !f.more {
		first |= 0x80
	}
	size := uint64(len(f.payload))
	if f.claims != 0 {
		size = f.claims
	}
	var masked byte = 0x80
	if f.bare {
		masked = 0
	}
	b := []byte{first}
	switch {
	case f.form == 64 || size > 0xffff:
		b = binary.BigEndian.AppendUint64(append(b, masked|127), size)
	case f.form == 16 || size > 125:
		b = binary.BigEndian.AppendUint16(append(b, masked|126), uint16(size))
	default:
		b = append(b, masked|byte(size))
	}
	if f.bare {
		return append(b, f.payload...)
	}
	mask := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	if f.zero {
		mask = [4]byte{}
	}
	b = append(b, mask[:]...)
	for i, c := range f.payload {
		b = append(b, c^mask[i%4])
	}
	return b
}

func wsMessage(payload []byte) []byte { return wsFrame{opcode: opBinary, payload: payload}.bytes() }

func wsPing(payload string) []byte { return wsFrame{opcode: opPing, payload: []byte(payload)}.bytes() }

func wsPong(payload string) []byte { return wsFrame{opcode: opPong, payload: []byte(payload)}.bytes() }

// wsCloseFrame asks for the end with this code; 0 is none.
func wsCloseFrame(code int, reason string) []byte {
	payload := []byte(reason)
	if code != 0 {
		payload = append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...)
	}
	return wsFrame{opcode: opClose, payload: payload}.bytes()
}

// wsConn is a WebSocket connection whose frames a test makes and cuts itself. Whatever the relay sends is held to what
// RFC 6455 demands of a server, in every test.
type wsConn struct {
	t       testing.TB
	conn    net.Conn
	reader  *bufio.Reader
	head    *http.Response
	private key.NodePrivate
	public  key.NodePublic
	server  key.NodePublic

	stream   []byte // DERP's bytes that came in messages and are not read yet
	within   bool   // a message of the relay that is not finished
	loggedIn bool
}

// wsHandshake is a request as browsers make it, compression offered.
func wsHandshake(host string, headers ...string) string {
	request := "GET /derp HTTP/1.1\r\nHost: " + host + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Origin: https://app.example\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + wsKey + "\r\n" +
		"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
	for _, header := range headers {
		request += header + "\r\n"
	}
	return request + "\r\n"
}

const wsKey = "dGhlIHNhbXBsZSBub25jZQ=="

func wsAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// wsDial opens a WebSocket for DERP; it does not wait for ServerKey.
func wsDial(t testing.TB, r *relay, tr transport) *wsConn {
	t.Helper()
	w := wsRequest(t, r, tr, wsHandshake(r.spec.host, "Sec-WebSocket-Protocol: derp"))
	w.wantUpgraded("derp")
	return w
}

// wsRequest sends this request and reads the head of the answer.
func wsRequest(t testing.TB, r *relay, tr transport, request string) *wsConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := tr.dial(ctx, r)
	if err != nil {
		t.Fatalf("dialling the relay: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	private := key.NewNode()
	w := &wsConn{t: t, conn: conn, reader: bufio.NewReader(conn), private: private, public: private.Public()}
	w.extend()
	w.write([]byte(request))
	if w.head, err = http.ReadResponse(w.reader, &http.Request{Method: strings.Fields(request)[0]}); err != nil {
		t.Fatalf("reading the answer to the upgrade: %v", err)
	}
	return w
}

func (w *wsConn) wantUpgraded(protocol string) {
	w.t.Helper()
	if w.head.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(w.head.Body)
		w.t.Fatalf("the upgrade is answered with %s: %s", w.head.Status, body)
	}
	for name, want := range map[string]string{
		"Upgrade": "websocket", "Connection": "upgrade", "Sec-WebSocket-Accept": wsAccept(wsKey),
		"Sec-WebSocket-Protocol": protocol, "Sec-WebSocket-Extensions": "",
	} {
		got := w.head.Header.Get(name)
		if name == "Upgrade" || name == "Connection" {
			got = strings.ToLower(got)
		}
		if got != want {
			w.t.Errorf("%s of the answer is %q; want %q", name, got, want)
		}
	}
	for name := range w.head.Header {
		if strings.HasPrefix(name, "Derp-") {
			w.t.Errorf("the answer has %s, which is for raw DERP", name)
		}
	}
}

func (w *wsConn) extend() { w.conn.SetDeadline(time.Now().Add(patience)) }

func (w *wsConn) write(b []byte) {
	w.t.Helper()
	if _, err := w.conn.Write(b); err != nil {
		w.t.Fatalf("writing %d bytes to the relay: %v", len(b), err)
	}
}

// tryWrite is for bytes behind what may make the relay hang up.
func (w *wsConn) tryWrite(b []byte) { w.conn.Write(b) }

// next is the next frame from the relay, which has to be one that a server may send.
func (w *wsConn) next() (opcode byte, payload []byte, err error) {
	var header [10]byte
	if _, err := io.ReadFull(w.reader, header[:2]); err != nil {
		return 0, nil, err
	}
	fin, opcode, size := header[0]&0x80 != 0, header[0]&0xf, uint64(header[1]&0x7f)
	w.demand(header[0]&0x70 == 0, "reserved bits in %#02x (section 5.2)", header[0])
	w.demand(header[1]&0x80 == 0, "a server's frame is masked (section 5.1)")
	switch size {
	case 126:
		if _, err := io.ReadFull(w.reader, header[2:4]); err != nil {
			return 0, nil, inside(err)
		}
		size = uint64(binary.BigEndian.Uint16(header[2:]))
		w.demand(size > 125, "length %d takes 16 bits (section 5.2)", size)
	case 127:
		if _, err := io.ReadFull(w.reader, header[2:10]); err != nil {
			return 0, nil, inside(err)
		}
		size = binary.BigEndian.Uint64(header[2:])
		w.demand(size > 0xffff && size < 1<<63, "length %d takes 64 bits (section 5.2)", size)
	}
	w.demand(size <= 1<<20, "a frame of %d bytes, which no client needs to take", size)
	switch opcode {
	case opBinary, opContinuation:
		w.demand(w.within == (opcode == opContinuation), "opcode %d while a message goes on: %v (section 5.4)", opcode, w.within)
		w.within = !fin
	case opClose, opPing, opPong:
		w.demand(fin && size <= 125, "a control frame of %d bytes, FIN %v (section 5.5)", size, fin)
	default:
		w.demand(false, "opcode %d", opcode)
	}
	payload = make([]byte, size)
	if _, err := io.ReadFull(w.reader, payload); err != nil {
		return 0, nil, inside(err)
	}
	return opcode, payload, nil
}

func inside(err error) error { return fmt.Errorf("inside a WebSocket frame: %w", err) }

func (w *wsConn) demand(ok bool, format string, a ...any) {
	w.t.Helper()
	if !ok {
		w.t.Fatalf("the relay breaks RFC 6455: "+format, a...)
	}
}

// event is what a client notices of the relay: a control frame, a DERP frame, or the end.
type event struct {
	opcode  byte // opBinary: a DERP frame
	payload []byte
	kind    derp.FrameType
	ended   bool
	err     error
}

// event waits for the next one; keepalives are none.
func (w *wsConn) event() event {
	w.t.Helper()
	for {
		if size := 5; len(w.stream) >= size {
			size += int(binary.BigEndian.Uint32(w.stream[1:]))
			w.demand(size <= 5+1<<20, "a DERP frame of %d bytes", size)
			if len(w.stream) >= size {
				e := event{opcode: opBinary, kind: derp.FrameType(w.stream[0]), payload: bytes.Clone(w.stream[5:size])}
				if w.stream = w.stream[size:]; e.kind == derp.FrameKeepAlive {
					continue
				}
				return e
			}
		}
		opcode, payload, err := w.next()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			w.t.Fatalf("nothing from the relay within %v", patience)
		case err != nil:
			return event{ended: true, err: err}
		case opcode == opBinary || opcode == opContinuation:
			w.stream = append(w.stream, payload...)
		default:
			return event{opcode: opcode, payload: payload}
		}
	}
}

func (e event) String() string {
	switch {
	case e.ended:
		return "end"
	case e.opcode == opPing:
		return fmt.Sprintf("ping(%s)", short(e.payload))
	case e.opcode == opPong:
		return fmt.Sprintf("pong(%s)", short(e.payload))
	case e.opcode == opClose && len(e.payload) == 0:
		return "close()"
	case e.opcode == opClose && len(e.payload) == 1:
		return "close of one byte"
	case e.opcode == opClose:
		return fmt.Sprintf("close(%d)", binary.BigEndian.Uint16(e.payload))
	default:
		return fmt.Sprintf("frame %#02x of %d bytes", byte(e.kind), len(e.payload))
	}
}

func short(b []byte) string {
	if len(b) > 20 {
		return fmt.Sprintf("%d bytes, %x...", len(b), b[:4])
	}
	return string(b)
}

// wantDERP insists that the next event is a DERP frame of this kind.
func (w *wsConn) wantDERP(kind derp.FrameType) []byte {
	w.t.Helper()
	e := w.event()
	if e.opcode != opBinary || e.kind != kind {
		w.t.Fatalf("got %v (%v); want frame %#02x", e, e.err, byte(kind))
	}
	return e.payload
}

func (w *wsConn) wantServerKey() {
	w.t.Helper()
	payload := w.wantDERP(derp.FrameServerKey)
	if len(payload) != 40 || !bytes.HasPrefix(payload, []byte(derp.Magic)) {
		w.t.Fatalf("ServerKey is %x; want the magic and 32 bytes of key", payload)
	}
	w.server = publicKey(payload[len(derp.Magic):])
}

// wsLogin connects and logs in, up to and including ServerInfo.
func wsLogin(t testing.TB, r *relay, tr transport) *wsConn {
	t.Helper()
	w := wsDial(t, r, tr)
	w.wantServerKey()
	w.login()
	return w
}

func (w *wsConn) login() {
	w.t.Helper()
	w.loginAs(ordinaryInfo)
}

func (w *wsConn) loginAs(info string) {
	w.t.Helper()
	w.write(wsMessage(w.sealed([]byte(info))))
	w.wantServerInfo(w.wantDERP(derp.FrameServerInfo))
}

// clientInfo is the whole frame of the login, filled up to this size with white space.
func (w *wsConn) clientInfo(size int) []byte {
	info := []byte(ordinaryInfo)
	const around = derp.FrameHeaderLen + 32 + 24 + 16
	info = append(info, bytes.Repeat([]byte(" "), max(0, size-around-len(info)))...)
	return w.sealed(info)
}

func (w *wsConn) sealed(info []byte) []byte {
	return frame(derp.FrameClientInfo, w.public.AppendTo(nil), w.private.SealTo(w.server, info))
}

func (w *wsConn) wantServerInfo(payload []byte) {
	w.t.Helper()
	if info, ok := w.private.OpenFrom(w.server, payload); !ok || string(info) != `{"version":2}` {
		w.t.Fatalf("ServerInfo says %q, sealed for us: %v", info, ok)
	}
	w.loggedIn = true
}

// wantAlive insists that the very next thing is the answer to a DERP ping.
func (w *wsConn) wantAlive() {
	w.t.Helper()
	w.extend()
	w.write(wsMessage(frame(derp.FramePing, []byte("still up"))))
	if got := w.wantDERP(derp.FramePong); string(got) != "still up" {
		w.t.Fatalf("the pong says %q", got)
	}
}

// wantClose insists that the next event is a Close frame with one of these codes, answers it as clients do, and waits for
// the end of the connection.
func (w *wsConn) wantClose(codes ...int) {
	w.t.Helper()
	e := w.event()
	if e.opcode != opClose || len(e.payload) < 2 {
		w.t.Fatalf("got %v (%v); want Close %v", e, e.err, codes)
	}
	got := int(binary.BigEndian.Uint16(e.payload))
	for _, code := range codes {
		if got == code {
			w.tryWrite(wsFrame{opcode: opClose, payload: e.payload[:2]}.bytes())
			w.wantEnd()
			return
		}
	}
	w.t.Fatalf("closed with %d, %q; want %v", got, e.payload[2:], codes)
}

func (w *wsConn) wantEnd() {
	w.t.Helper()
	if e := w.event(); !e.ended {
		w.t.Fatalf("got %v; want the end of the connection", e)
	}
}
