package interop

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// TestFastStart: over TLS 1.3 the real client learns the relay's key from the meta certificate and logs in without waiting
// for anything that the relay says after the handshake.
func TestFastStart(t *testing.T) {
	r := sharedRelay(t, true)
	alice, bob := join(t, r, tls13, "alice"), join(t, r, tls13, "bob")
	if alice.readsThen != 0 {
		t.Errorf("the client read %d times between its request and being connected; a fast start reads nothing", alice.readsThen)
	}
	state, ok := alice.client.TLSConnectionState()
	if !ok || state.Version != tls.VersionTLS13 {
		t.Fatalf("TLS state %v, version %#x; want TLS 1.3", ok, state.Version)
	}
	if got, want := metaKey(t, state.PeerCertificates), alice.client.ServerPublicKey(); got != want {
		t.Errorf("the meta certificate names %v, the client believes %v", got, want)
	}
	data := packet(1, 1, 1000)
	alice.send(bob.public, data)
	bob.wantPacket(alice.public, data)
}

// TestOrdinaryUpgrade: a client that cannot start fast waits for the 101 and gets the relay's key from ServerKey. It also
// shows that TestFastStart would notice one that was not fast.
func TestOrdinaryUpgrade(t *testing.T) {
	for _, tr := range []transport{tls12, tls13Upgrade} {
		t.Run(tr.name, func(t *testing.T) {
			r := sharedRelay(t, true)
			alice, quick := join(t, r, tr, "alice"), join(t, r, tls13, "quick")
			if !tr.handOver && alice.readsThen == 0 {
				t.Errorf("the client read nothing between its request and being connected; an ordinary upgrade reads the 101")
			}
			if got, want := alice.client.ServerPublicKey(), quick.client.ServerPublicKey(); got != want {
				t.Errorf("ServerKey says %v, the meta certificate %v", got, want)
			}
		})
	}
}

// TestFastStartBytes: with Derp-Fast-Start there is no HTTP answer; the first byte from the relay belongs to ServerKey.
func TestFastStartBytes(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		s := rawDial(t, r, tr)
		s.write([]byte(upgradeRequest(r, "Derp-Fast-Start: 1")))
		s.wantServerKey()
		s.write(frame(derp.FrameClientInfo, s.clientInfo(ordinaryInfo)))
		s.wantServerInfo()
		s.wantAlive()
	})
}

// TestUpgradeAnswer: the 101 and its headers, for every spelling that asks for raw DERP.
func TestUpgradeAnswer(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		for _, headers := range []string{
			"Upgrade: DERP\r\nConnection: Upgrade",
			"Upgrade: derp\r\nConnection: Upgrade",
			"upgrade: Derp\r\nconnection: upgrade",
			"Upgrade: DERP",
			"Upgrade: websocket\r\nConnection: Upgrade", // no subprotocol, so not a WebSocket
			"Upgrade: DERP\r\nConnection: Upgrade\r\nDerp-Fast-Start: 0",
			"Upgrade: DERP\r\nConnection: Upgrade\r\nIdeal-Node: elsewhere\r\nX-Unknown: ignored",
		} {
			s := rawDial(t, r, tr)
			s.write([]byte("GET /derp HTTP/1.1\r\nHost: " + relayHost + "\r\n" + headers + "\r\n\r\n"))
			resp, err := http.ReadResponse(s.reader, nil)
			if err != nil {
				t.Fatalf("%q: reading the answer: %v", headers, err)
			}
			if resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("%q is answered with %s; want 101", headers, resp.Status)
			}
			s.wantServerKey()
			for name, want := range map[string]string{
				"Upgrade": "DERP", "Connection": "Upgrade", "Derp-Version": "2",
				"Derp-Public-Key": s.server.UntypedHexString(),
			} {
				if got := resp.Header.Get(name); got != want {
					t.Errorf("%q: header %s is %q; want %q", headers, name, got, want)
				}
			}
			s.write(frame(derp.FrameClientInfo, s.clientInfo(ordinaryInfo)))
			s.wantServerInfo()
		}
	})
}

// TestPipelinedLogin: everything that a client has to say may come in one write, the login and packets behind the request.
func TestPipelinedLogin(t *testing.T) {
	overTransports(t, []transport{plain, tls13, tls12}, func(t *testing.T, r *relay, tr transport) {
		bob := join(t, r, tr, "bob")
		s := rawDial(t, r, tr)
		s.server = bob.client.ServerPublicKey()
		all := []byte(upgradeRequest(r, "Derp-Fast-Start: 1"))
		all = append(all, frame(derp.FrameClientInfo, s.clientInfo(ordinaryInfo))...)
		all = append(all, frame(derp.FrameNotePreferred, []byte{1})...)
		const packets = 20
		for n := range uint64(packets) {
			all = append(all, frame(derp.FrameSendPacket, bob.public.AppendTo(nil), packet(1, n, 1+int(n)*100))...)
		}
		s.write(all)
		for n := range uint64(packets) {
			bob.wantPacket(s.public, packet(1, n, 1+int(n)*100))
		}
		s.wantServerKey()
		s.wantServerInfo()
		s.wantAlive()
	})
}

// TestByteByByte: frames may be cut anywhere, each byte in a write of its own, and so in a TLS record of its own.
func TestByteByByte(t *testing.T) {
	overTransports(t, []transport{plain, tls13, tls12}, func(t *testing.T, r *relay, tr transport) {
		bob := join(t, r, tr, "bob")
		s := rawDial(t, r, tr)
		trickle := func(b []byte) {
			for i := range b {
				s.write(b[i : i+1])
			}
		}
		trickle([]byte(upgradeRequest(r)))
		resp, err := http.ReadResponse(s.reader, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("a request in single bytes: %v, %v; want 101", resp, err)
		}
		s.wantServerKey()
		trickle(frame(derp.FrameClientInfo, s.clientInfo(ordinaryInfo)))
		s.wantServerInfo()
		for n := range uint64(5) {
			data := packet(1, n, 1+int(n)*61)
			trickle(frame(derp.FrameSendPacket, bob.public.AppendTo(nil), data))
			bob.wantPacket(s.public, data)
		}
		s.wantAlive()
	})
}

// TestEveryCut: a run of frames is cut in two at every possible place.
func TestEveryCut(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		bob := join(t, r, tr, "bob")
		s := rawLogin(t, r, tr, ordinaryInfo)
		run := frame(derp.FrameSendPacket, bob.public.AppendTo(nil), packet(1, 0, 40))
		run = append(run, frame(derp.FrameSendPacket, bob.public.AppendTo(nil), nil)...)
		run = append(run, frame(derp.FrameNotePreferred, []byte{1})...)
		run = append(run, frame(derp.FrameSendPacket, bob.public.AppendTo(nil), packet(1, 1, 20))...)
		for cut := range run {
			s.extend()
			s.write(run[:cut])
			s.write(run[cut:])
			bob.wantPacket(s.public, packet(1, 0, 40))
			bob.wantPacket(s.public, nil)
			bob.wantPacket(s.public, packet(1, 1, 20))
		}
	})
}

// TestMetaCertificate: the chain is the configured one and then the meta certificate, whatever the TLS version.
func TestMetaCertificate(t *testing.T) {
	for _, tr := range []transport{tls13, tls12} {
		t.Run(tr.name, func(t *testing.T) {
			r := sharedRelay(t, true)
			conn := rawDial(t, r, tr).conn.(*tls.Conn)
			chain := conn.ConnectionState().PeerCertificates
			if len(chain) != 3 {
				t.Fatalf("the relay sends %d certificates; want leaf, intermediate and meta certificate", len(chain))
			}
			if !chain[0].Equal(scratch.pki.leaf) || !chain[1].Equal(scratch.pki.inter) {
				t.Errorf("the chain begins with %v and %v; want the configured leaf and intermediate", chain[0].Subject, chain[1].Subject)
			}
			meta := chain[2]
			if got, want := metaKey(t, chain), join(t, r, tr, "alice").client.ServerPublicKey(); got != want {
				t.Errorf("it names the key %v; the relay's is %v", got, want)
			}
			if meta.SerialNumber.Cmp(big.NewInt(derp.ProtocolVersion)) != 0 {
				t.Errorf("serial number %v; want the protocol version, %d", meta.SerialNumber, derp.ProtocolVersion)
			}
			if !bytes.Equal(meta.RawSubject, meta.RawIssuer) {
				t.Errorf("issuer %v; want the subject again, %v", meta.Issuer, meta.Subject)
			}
			if public, ok := meta.PublicKey.(ed25519.PublicKey); !ok {
				t.Errorf("public key is a %T; want Ed25519", meta.PublicKey)
			} else if !ed25519.Verify(public, meta.RawTBSCertificate, meta.Signature) {
				t.Error("it is not signed by its own key")
			}
			basicConstraints := asn1.ObjectIdentifier{2, 5, 29, 19}
			if len(meta.Extensions) != 1 || !meta.Extensions[0].Id.Equal(basicConstraints) || !meta.Extensions[0].Critical {
				t.Errorf("extensions %v; want only BasicConstraints, critical", meta.Extensions)
			}
			if !meta.BasicConstraintsValid || meta.IsCA {
				t.Errorf("BasicConstraints valid %v, CA %v; want valid and no CA", meta.BasicConstraintsValid, meta.IsCA)
			}
		})
	}
}

// metaKey is the relay key that the last certificate of a chain names.
func metaKey(t *testing.T, chain []*x509.Certificate) key.NodePublic {
	t.Helper()
	name := chain[len(chain)-1].Subject.CommonName
	digits, ok := strings.CutPrefix(name, "derpkey")
	if !ok || len(digits) != 64 || digits != strings.ToLower(digits) {
		t.Fatalf("the last certificate is for %q; want derpkey and 64 lower-case hex digits", name)
	}
	var public key.NodePublic
	if err := public.UnmarshalText([]byte("nodekey:" + digits)); err != nil {
		t.Fatalf("the last certificate's name %q: %v", name, err)
	}
	return public
}

// TestResumption: a client that offers a session ticket is served, whether the relay accepts the ticket or not.
func TestResumption(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			r := sharedRelay(t, true)
			cache := tls.NewLRUClientSessionCache(0)
			tr := transport{tls: true, config: func() *tls.Config {
				return &tls.Config{
					RootCAs: scratch.pki.roots, MinVersion: version, MaxVersion: version, ClientSessionCache: cache,
				}
			}}
			bob := join(t, r, tls13, "bob")
			for n := range uint64(3) {
				alice := join(t, r, tr, fmt.Sprintf("alice, connection %d", n))
				for m := range uint64(5) {
					data := packet(n, m, 1400)
					alice.send(bob.public, data)
					bob.wantPacket(alice.public, data)
					bob.send(alice.public, data)
					alice.wantPacket(bob.public, data)
				}
				if state, ok := alice.client.TLSConnectionState(); ok {
					t.Logf("connection %d resumed: %v", n, state.DidResume)
				}
				alice.leave()
				bob.wantGone(alice.public, derp.PeerGoneReasonDisconnected)
			}
		})
	}
}

// TestCipherSuites: every suite that Go lets a TLS 1.2 client choose for an ECDSA certificate.
func TestCipherSuites(t *testing.T) {
	for _, suite := range []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	} {
		t.Run(tls.CipherSuiteName(suite), func(t *testing.T) {
			r := sharedRelay(t, true)
			tr := transport{tls: true, config: func() *tls.Config {
				return &tls.Config{
					RootCAs: scratch.pki.roots, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite},
				}
			}}
			alice, bob := join(t, r, tr, "alice"), join(t, r, tls13, "bob")
			if state, _ := alice.client.TLSConnectionState(); state.CipherSuite != suite {
				t.Fatalf("negotiated %s", tls.CipherSuiteName(state.CipherSuite))
			}
			for n, size := range sizes {
				data := packet(1, uint64(n), size)
				alice.send(bob.public, data)
				bob.wantPacket(alice.public, data)
				bob.send(alice.public, data)
				alice.wantPacket(bob.public, data)
			}
		})
	}
}

// TestALPN: clients that offer http/1.1 get it, clients that offer nothing are served, and HTTP/2 is not spoken.
func TestALPN(t *testing.T) {
	handshake := func(t *testing.T, protocols ...string) (string, error) {
		tr := transport{tls: true, config: func() *tls.Config {
			return &tls.Config{RootCAs: scratch.pki.roots, NextProtos: protocols}
		}}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		conn, err := tr.dial(ctx, sharedRelay(t, true))
		if err != nil {
			return "", err
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().NegotiatedProtocol, nil
	}
	for _, c := range []struct {
		offer []string
		want  string
	}{
		{nil, ""},
		{[]string{"http/1.1"}, "http/1.1"},
		{[]string{"h2", "http/1.1"}, "http/1.1"},
		{[]string{"something", "http/1.1"}, "http/1.1"},
	} {
		if got, err := handshake(t, c.offer...); err != nil || got != c.want {
			t.Errorf("offering %q: negotiated %q, %v; want %q", c.offer, got, err, c.want)
		}
	}
	t.Run("h2-only", func(t *testing.T) {
		skipReference(t, "serves HTTP/2, over which DERP is impossible")
		if got, err := handshake(t, "h2"); err == nil || !strings.Contains(err.Error(), "no application protocol") {
			t.Errorf("offering only h2: negotiated %q, %v; want the alert no_application_protocol", got, err)
		}
	})
	t.Run("unknown-only", func(t *testing.T) {
		if got, err := handshake(t, "something"); err == nil || !strings.Contains(err.Error(), "no application protocol") {
			t.Errorf("offering an unknown protocol: negotiated %q, %v; want the alert no_application_protocol", got, err)
		}
	})
}

// TestOldTLS: nothing below TLS 1.2.
func TestOldTLS(t *testing.T) {
	tr := transport{tls: true, config: func() *tls.Config {
		return &tls.Config{RootCAs: scratch.pki.roots, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := tr.dial(ctx, sharedRelay(t, true))
	if err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("a TLS 1.1 client: %v; want the alert protocol_version", err)
	}
}

// TestCloseNotify: a client that says goodbye properly gets the relay's goodbye, not a reset.
func TestCloseNotify(t *testing.T) {
	for _, tr := range []transport{tls13, tls12} {
		t.Run(tr.name, func(t *testing.T) {
			s := rawLogin(t, sharedRelay(t, true), tr, ordinaryInfo)
			s.wantAlive()
			if err := s.conn.(*tls.Conn).CloseWrite(); err != nil {
				t.Fatalf("sending close_notify: %v", err)
			}
			if rest, err := io.ReadAll(s.reader); err != nil {
				t.Errorf("after close_notify: %d more bytes and then %v; want close_notify", len(rest), err)
			}
		})
	}
}

// TestBadLogins: what is not a login ends the connection, and the relay goes on.
func TestBadLogins(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		type attempt struct {
			why  string
			send func(*raw) []byte
		}
		sealed := func(info string) func(*raw) []byte {
			return func(s *raw) []byte { return frame(derp.FrameClientInfo, s.clientInfo(info)) }
		}
		attempts := []attempt{
			{"the first frame is not ClientInfo", func(*raw) []byte { return frame(derp.FramePing, make([]byte, 8)) }},
			{"a second HTTP request is not ClientInfo", func(*raw) []byte { return []byte(upgradeRequest(r)) }},
			{"ClientInfo of 55 bytes", func(s *raw) []byte { return frame(derp.FrameClientInfo, s.clientInfo("{}")[:55]) }},
			{"ClientInfo of 256 KiB and a byte", func(*raw) []byte { return frameHeader(derp.FrameClientInfo, 256<<10+1) }},
			{"ClientInfo of 4 GiB", func(*raw) []byte { return frameHeader(derp.FrameClientInfo, 1<<32-1) }},
			{"the box is damaged", func(s *raw) []byte {
				info := s.clientInfo(ordinaryInfo)
				info[len(info)-1] ^= 1
				return frame(derp.FrameClientInfo, info)
			}},
			{"the box is another key's", func(s *raw) []byte {
				info := s.clientInfo(ordinaryInfo)
				key.NewNode().Public().AppendTo(info[:0])
				return frame(derp.FrameClientInfo, info)
			}},
			{"the key is zero", func(s *raw) []byte {
				info := s.clientInfo(ordinaryInfo)
				clear(info[:32])
				return frame(derp.FrameClientInfo, info)
			}},
			{"empty JSON", sealed("")},
			{"not JSON", sealed("hello")},
			{"JSON of another type", sealed(`[1]`)},
			{"version of another type", sealed(`{"version":"2"}`)},
			{"something after the JSON", sealed(`{"version":2}{}`)},
			{"a mesh key that is too short", sealed(`{"version":2,"meshKey":"abcd"}`)},
			{"an empty mesh key", sealed(`{"version":2,"meshKey":""}`)},
		}
		for _, a := range attempts {
			s := rawUpgrade(t, r, tr)
			s.write(a.send(s))
			s.wantClosed(a.why)
		}
		alice := join(t, r, tr, "alice")
		alice.wantPong()
	})
}

// TestGoodLogins: ClientInfo is read as Go reads JSON.
func TestGoodLogins(t *testing.T) {
	r := sharedRelay(t, false)
	wrongKey := strings.Repeat("ab", 32)
	for _, info := range []string{
		ordinaryInfo,
		`{}`,
		`null`,
		` { "version" : 2 } ` + "\n",
		`{"Version":2,"CANACKPINGS":false,"isprober":true}`,
		`{"version":2,"AppName":"interop","SomethingNew":{"a":[1,2,{}]}}`,
		`{"version":1,"version":2}`,
		`{"version":2,"meshKey":"` + wrongKey + `"}`,
		`{"version":2,"MESHKEY":"` + strings.ToUpper(scratch.meshKey) + `"}`,
		`{"version":2,"AppName":"` + strings.Repeat("long ", 10000) + `"}`,
	} {
		rawLogin(t, r, plain, info).wantAlive()
	}
}

// TestGarbage: strangers who speak no HTTP, no TLS or no DERP cost the others nothing.
func TestGarbage(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		alice, bob := join(t, r, tr, "alice"), join(t, r, tr, "bob")
		noise := packet(7, 7, 4096)
		for _, bytes := range [][]byte{
			nil,
			noise,
			[]byte("\r\n\r\n"),
			[]byte("GET /derp HTTP/9.9\r\n\r\n"),
			[]byte("GET /derp HTTP/1.1\r\nHost: a b\r\n: \r\n\r\n"),
			[]byte("\x16\x03\x01\xff\xff" + string(noise)),     // a ClientHello too long to be one
			[]byte("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"), // a ClientHello with nothing in it
			[]byte("\x15\x03\x03\x00\x02\x02\x28"),             // an alert to begin with
		} {
			conn, err := net.Dial("tcp", r.addr())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(bytes); err != nil {
				t.Fatal(err)
			}
			conn.Close()
		}
		// The same inside TLS, and after the upgrade. The relay may hang up at the first byte, so a write may fail.
		for _, bytes := range [][]byte{noise, []byte("\r\n\r\n"), []byte("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n")} {
			rawDial(t, r, tr).conn.Write(bytes)
			rawUpgrade(t, r, tr).conn.Write(bytes)
			rawLogin(t, r, tr, ordinaryInfo).conn.Write(bytes)
		}
		for n := range uint64(10) {
			data := packet(1, n, 1400)
			alice.send(bob.public, data)
			bob.wantPacket(alice.public, data)
		}
	})
}

// TestDamagedRecord: a TLS record that was tampered with ends that connection and nothing else.
func TestDamagedRecord(t *testing.T) {
	for _, tr := range []transport{tls13, tls12} {
		t.Run(tr.name, func(t *testing.T) {
			r := sharedRelay(t, true)
			bob := join(t, r, tr, "bob")
			tap := new(tappedConn)
			tampered := tr
			tampered.wrap = func(conn net.Conn) net.Conn {
				tap.Conn = conn
				return tap
			}
			s := rawLogin(t, r, tampered, ordinaryInfo)
			good := packet(1, 0, 500)
			s.write(frame(derp.FrameSendPacket, bob.public.AppendTo(nil), good))
			bob.wantPacket(s.public, good)

			tap.damage = true
			s.write(frame(derp.FrameSendPacket, bob.public.AppendTo(nil), packet(1, 1, 500)))
			bob.wantGone(s.public, derp.PeerGoneReasonDisconnected)
			s.wantClosed("a record did not verify")
			bob.wantPong()
		})
	}
}

// tappedConn can turn over the last bit of what is written.
type tappedConn struct {
	net.Conn
	damage bool
}

func (c *tappedConn) Write(p []byte) (int, error) {
	if c.damage {
		p = bytes.Clone(p)
		p[len(p)-1] ^= 1
	}
	return c.Conn.Write(p)
}
