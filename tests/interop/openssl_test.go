package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// opensslConn is `openssl s_client` used as a connection: its input and output are the plaintext. Single letters at the
// start of what it reads are commands to it, so payloads sent through it must not begin a write with a letter.
type opensslConn struct {
	cmd      *exec.Cmd
	stdin    *os.File
	stdout   *os.File
	talk     talk
	messages string // file in which s_client notes each TLS message
}

// openssl starts s_client against the relay. Its messages are noted as soon as they are seen.
func openssl(t *testing.T, r *relay, arguments ...string) *opensslConn {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		leaveOut(t, "there is no openssl command")
	}
	if version, err := exec.Command(path, "version").Output(); err != nil || !bytes.HasPrefix(version, []byte("OpenSSL ")) {
		leaveOut(t, fmt.Sprintf("%s is %q, %v; want OpenSSL", path, version, err))
	}
	c := &opensslConn{messages: filepath.Join(t.TempDir(), "messages")}
	all := append([]string{
		"s_client", "-connect", r.addr(), "-servername", relayHost, "-brief", "-msg", "-msgfile", c.messages,
	}, arguments...)
	c.cmd = exec.Command(path, all...)
	c.cmd.Stderr = &c.talk
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// Pipes of our own, because those of os/exec have no deadlines that a client library could set.
	var childIn, childOut *os.File
	if childIn, c.stdin, err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	if c.stdout, childOut, err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	c.cmd.Stdin, c.cmd.Stdout = childIn, childOut
	err = startBound(c.cmd)
	childIn.Close()
	childOut.Close()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		c.cmd.Wait()
		c.talk.end()
		close(ended)
	}()
	t.Cleanup(func() {
		c.Close()
		c.cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("openssl's messages:\n%s", c.talk.String())
		}
	})
	return c
}

func (c *opensslConn) Read(p []byte) (int, error)  { return c.stdout.Read(p) }
func (c *opensslConn) Write(p []byte) (int, error) { return c.stdin.Write(p) }
func (c *opensslConn) Close() error                { return errors.Join(c.stdin.Close(), c.stdout.Close()) }
func (c *opensslConn) LocalAddr() net.Addr         { return new(net.TCPAddr) }
func (c *opensslConn) RemoteAddr() net.Addr        { return new(net.TCPAddr) }

func (c *opensslConn) SetReadDeadline(d time.Time) error  { return c.stdout.SetReadDeadline(d) }
func (c *opensslConn) SetWriteDeadline(d time.Time) error { return c.stdin.SetWriteDeadline(d) }
func (c *opensslConn) SetDeadline(d time.Time) error {
	return errors.Join(c.stdin.SetDeadline(d), c.stdout.SetDeadline(d))
}

// login is the ordinary upgrade and login through OpenSSL.
func (c *opensslConn) login(t *testing.T, r *relay) *raw {
	t.Helper()
	s := rawOver(t, c)
	s.write([]byte(upgradeRequest(r)))
	resp, err := http.ReadResponse(s.reader, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the upgrade: %v, %v; want 101", resp, err)
	}
	s.wantServerKey()
	s.write(frame(derp.FrameClientInfo, s.clientInfo(ordinaryInfo)))
	s.wantServerInfo()
	return s
}

// plainPacket is a packet whose bytes are no letters, wherever s_client happens to start reading.
func plainPacket(number uint64, size int) []byte {
	data := packet(1, number, size)
	for i := range data {
		data[i] &= 0x1f
	}
	return data
}

// plainKey is a key of whose public half the same is true.
func plainKey() key.NodePrivate {
	for {
		private := key.NewNode()
		if !bytes.ContainsAny(private.Public().AppendTo(nil), "QRBKkCcq") {
			return private
		}
	}
}

// exchange sends packets of several sizes in both directions between OpenSSL and the real client.
func exchange(t *testing.T, s *raw, bob *peer) {
	t.Helper()
	for n, size := range []int{0, 1, 100, 1400, 4096, 12000} {
		data := plainPacket(uint64(n), size)
		s.extend()
		s.write(frame(derp.FrameSendPacket, bob.public.AppendTo(nil), data))
		bob.wantPacket(s.public, data)
	}
	for n, size := range sizes {
		data := packet(2, uint64(n), size)
		s.extend()
		bob.send(s.public, data)
		s.wantFrame(derp.FrameRecvPacket, append(bob.public.AppendTo(nil), data...))
	}
}

// TestOpenSSL: every TLS 1.3 suite, and what TLS 1.2 offers for an ECDSA certificate.
func TestOpenSSL(t *testing.T) {
	for _, c := range []struct {
		suite     string
		arguments []string
	}{
		{"TLS_AES_128_GCM_SHA256", []string{"-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"}},
		{"TLS_AES_256_GCM_SHA384", []string{"-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"}},
		{"TLS_CHACHA20_POLY1305_SHA256", []string{"-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"}},
		{"ECDHE-ECDSA-AES128-GCM-SHA256", []string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"}},
		{"ECDHE-ECDSA-AES256-GCM-SHA384", []string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"}},
		{"ECDHE-ECDSA-CHACHA20-POLY1305", []string{"-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"}},
	} {
		t.Run(c.suite, func(t *testing.T) {
			r := sharedRelay(t, true)
			bob := join(t, r, tls13, "bob", withKey(plainKey()))
			conn := openssl(t, r, c.arguments...)
			s := conn.login(t, r)
			conn.talk.await(t, "Ciphersuite: "+c.suite)
			exchange(t, s, bob)
		})
	}
}

// TestOpenSSLKeyUpdate: keys are changed in one direction and in both, again and again, and data goes on both ways. The
// relay must answer a request with an update of its own.
func TestOpenSSLKeyUpdate(t *testing.T) {
	for _, suite := range []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"} {
		t.Run(suite, func(t *testing.T) {
			r := sharedRelay(t, true)
			bob := join(t, r, tls13, "bob", withKey(plainKey()))
			conn := openssl(t, r, "-tls1_3", "-ciphersuites", suite)
			s := conn.login(t, r)
			exchange(t, s, bob)
			updates, requests := 0, 0
			for _, command := range []string{"k", "k", "K", "k", "K", "K", "K"} {
				// s_client takes a letter for a command only at the start of what it reads at once. It has read all that went
				// before, because the relay has answered it, and it says when it has read this.
				s.extend()
				s.wantAlive()
				s.write([]byte(command + "\n"))
				updates++
				conn.talk.awaitCount(t, "KEYUPDATE", updates)
				if command == "K" {
					requests++
				}
				exchange(t, s, bob)
				if got := conn.received(t, "KeyUpdate"); got != requests {
					t.Fatalf("OpenSSL asked for %d updates and got %d", requests, got)
				}
			}
		})
	}
}

// TestOpenSSLKeyUpdateUnderLoad: keys change in both directions while packets are under way in both.
func TestOpenSSLKeyUpdateUnderLoad(t *testing.T) {
	r := sharedRelay(t, true)
	bob := join(t, r, tls13, "bob", withKey(plainKey()))
	conn := openssl(t, r, "-tls1_3")
	s := conn.login(t, r)
	for n := range 20 {
		s.extend()
		s.wantAlive()
		const burst = 20
		for m := range uint64(burst) {
			bob.send(s.public, packet(uint64(n), m, 1400))
		}
		s.write([]byte("K\n"))
		for m := range uint64(burst) {
			s.wantFrame(derp.FrameRecvPacket, append(bob.public.AppendTo(nil), packet(uint64(n), m, 1400)...))
		}
		conn.talk.awaitCount(t, "KEYUPDATE", n+1)
		for m := range uint64(burst) {
			s.write(frame(derp.FrameSendPacket, bob.public.AppendTo(nil), plainPacket(m, 1400)))
		}
		for m := range uint64(burst) {
			bob.wantPacket(s.public, plainPacket(m, 1400))
		}
	}
	if got := conn.received(t, "KeyUpdate"); got == 0 {
		t.Error("the relay never updated its own keys")
	}
}

// TestOpenSSLGroups: the key exchanges that clients use.
func TestOpenSSLGroups(t *testing.T) {
	for _, group := range []string{"X25519", "P-256", "P-384"} {
		t.Run(group, func(t *testing.T) {
			r := sharedRelay(t, true)
			openssl(t, r, "-tls1_3", "-groups", group).login(t, r).wantAlive()
		})
	}
	t.Run("retry", func(t *testing.T) {
		// The client guesses a group that no relay has to support, and must be asked for another.
		r := sharedRelay(t, true)
		openssl(t, r, "-tls1_3", "-groups", "ffdhe2048:P-256").login(t, r).wantAlive()
	})
}

// TestOpenSSLRecords: plaintext cut into the smallest records that OpenSSL makes.
func TestOpenSSLRecords(t *testing.T) {
	r := sharedRelay(t, true)
	bob := join(t, r, tls13, "bob", withKey(plainKey()))
	exchange(t, openssl(t, r, "-tls1_3", "-max_send_frag", "512").login(t, r), bob)
}

// TestOpenSSLFastStart: request and login in one flight, by a client that knows the relay's key.
func TestOpenSSLFastStart(t *testing.T) {
	r := sharedRelay(t, true)
	bob := join(t, r, tls13, "bob", withKey(plainKey()))
	conn := openssl(t, r, "-tls1_3")
	s := rawOver(t, conn)
	s.server = bob.client.ServerPublicKey()
	s.write(append([]byte(upgradeRequest(r, "Derp-Fast-Start: 1")), frame(derp.FrameClientInfo, s.clientInfo(ordinaryInfo))...))
	s.wantServerKey()
	s.wantServerInfo()
	exchange(t, s, bob)
}

// TestOpenSSLALPN: http/1.1 is chosen when offered; a client that speaks only HTTP/2 is refused.
func TestOpenSSLALPN(t *testing.T) {
	r := sharedRelay(t, true)
	conn := openssl(t, r, "-tls1_3", "-alpn", "h2,http/1.1")
	conn.login(t, r).wantAlive()
	if strings.Contains(conn.talk.String(), "alert") {
		t.Errorf("offering http/1.1, OpenSSL reports an alert")
	}
	t.Run("h2-only", func(t *testing.T) {
		skipReference(t, "serves HTTP/2, over which DERP is impossible")
		openssl(t, r, "-tls1_3", "-alpn", "h2").talk.await(t, "no application protocol")
	})
}

// received counts the TLS messages of a kind that came from the relay. OpenSSL notes a message before it goes on to the
// plaintext behind it.
func (c *opensslConn) received(t *testing.T, kind string) int {
	t.Helper()
	notes, err := os.ReadFile(c.messages)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for line := range strings.Lines(string(notes)) {
		if strings.HasPrefix(line, "<<<") && strings.Contains(line, kind) {
			count++
		}
	}
	return count
}

// talk is what s_client says on its error output, which one can wait for.
type talk struct {
	mu    sync.Mutex
	said  bytes.Buffer
	bell  chan struct{} // closed and replaced with each change
	ended bool
}

func (w *talk) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said.Write(p)
	w.ring()
	return len(p), nil
}

func (w *talk) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.ring()
}

func (w *talk) ring() {
	if w.bell != nil {
		close(w.bell)
	}
	w.bell = make(chan struct{})
}

func (w *talk) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said.String()
}

func (w *talk) await(t *testing.T, what string) {
	t.Helper()
	w.awaitCount(t, what, 1)
}

// awaitCount waits until s_client has said something so many times.
func (w *talk) awaitCount(t *testing.T, what string, times int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		w.mu.Lock()
		if w.bell == nil {
			w.bell = make(chan struct{})
		}
		got, ended, bell := strings.Count(w.said.String(), what), w.ended, w.bell
		w.mu.Unlock()
		if got >= times {
			return
		}
		if ended {
			t.Fatalf("openssl ended before it said %q %d times:\n%s", what, times, w.String())
		}
		select {
		case <-bell:
		case <-ctx.Done():
			t.Fatalf("openssl said %q %d times; want %d", what, got, times)
		}
	}
}
