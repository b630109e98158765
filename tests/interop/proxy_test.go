package interop

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tailscale.com/types/key"
)

// The configurations in deploy/ are what these tests run; only addresses and files are replaced.

// TestBehindNginx: TLS ends at nginx, and the real client upgrades through it. The relay knows who the client is.
func TestBehindNginx(t *testing.T) {
	if testingReference() {
		t.Skip("derper takes no proxy's word for the client's address")
	}
	program := systemTool(t, "nginx")
	for _, socket := range []bool{false, true} {
		name := "tcp"
		if socket {
			name = "unix"
		}
		t.Run(name, func(t *testing.T) {
			b := startBehind(t, false, socket)
			dir := t.TempDir()
			target := b.target
			if socket {
				target = "unix:" + b.target
			}
			config := replaced(t, "../../deploy/nginx/derpring.conf", [][2]string{
				{"listen 443 ssl;", "listen " + b.secure + " ssl;"},
				{"    listen [::]:443 ssl;\n", ""},
				{"listen 80;", "listen " + b.plain + ";"},
				{"    listen [::]:80;\n", ""},
				{"server 127.0.0.1:8080;", "server " + target + ";"},
				{"derp.example.com;", relayHost + ";"},
				{"/etc/letsencrypt/live/derp.example.com/fullchain.pem", filepath.Join(scratch.pki.dir, relayHost+".crt")},
				{"/etc/letsencrypt/live/derp.example.com/privkey.pem", filepath.Join(scratch.pki.dir, relayHost+".key")},
			})
			around := "daemon off;\npid %[1]s/pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n" +
				"client_body_temp_path %[1]s/body;\nproxy_temp_path %[1]s/proxy;\nfastcgi_temp_path %[1]s/fastcgi;\n" +
				"uwsgi_temp_path %[1]s/uwsgi;\nscgi_temp_path %[1]s/scgi;\n%[2]s}\n"
			if os.Getuid() == 0 {
				around = "user root;\n" + around
			}
			path := filepath.Join(dir, "nginx.conf")
			writeFile(t, path, fmt.Sprintf(around, dir, config))
			runProxy(t, b, program, "-c", path, "-p", dir)
			exchangeThrough(t, b)
			captivePortal(t, b.plain)

			// WebSocket passes as well.
			private := key.NewNode()
			client, err := derpClient(dialWebSocket(t, b.front(), tls13), private)
			if err != nil {
				t.Fatalf("logging in over WebSocket through nginx: %v", err)
			}
			if _, err := client.Recv(); err != nil {
				t.Fatalf("waiting for ServerInfo: %v", err)
			}
			b.wantAddress(t, private.Public(), "127.0.0.1")
		})
	}
}

// TestBehindHaproxy: TLS goes through, the PROXY protocol says who the client is, and the fast start still works.
func TestBehindHaproxy(t *testing.T) {
	if testingReference() {
		t.Skip("derper takes a PROXY header for nonsense")
	}
	program := systemTool(t, "haproxy")
	b := startBehind(t, true, false)
	config := replaced(t, "../../deploy/haproxy/derpring.cfg", [][2]string{
		{"bind :443", "bind " + b.secure},
		{"    bind [::]:443 v6only\n", ""},
		{"bind :80", "bind " + b.plain},
		{"    bind [::]:80 v6only\n", ""},
		{"127.0.0.1:8443", b.target},
		{"127.0.0.1:8080", b.plainTarget},
		{"maxconn 100000", "maxconn 100"},
	})
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	writeFile(t, path, config)
	runProxy(t, b, program, "-db", "-f", path)
	exchangeThrough(t, b)
	captivePortal(t, b.plain)
}

// behind is a relay, and where the proxy in front of it listens.
type behind struct {
	relay               *relay
	secure, plain       string // the proxy's
	target, plainTarget string // the relay's
	admin               string
}

// startBehind runs a relay that trusts proxies on this machine. Its port is of no use to clients.
func startBehind(t *testing.T, overTLS, socket bool) *behind {
	t.Helper()
	b := &behind{secure: freeAddress(t), plain: freeAddress(t), plainTarget: freeAddress(t)}
	dir, err := os.MkdirTemp("", "derp-behind-") // short, as paths of sockets have to be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b.admin = filepath.Join(dir, "admin")
	flags := []string{"--admin-listen", "unix:" + b.admin, "--trusted-proxy", "127.0.0.1,unix"}
	if overTLS {
		flags = append(flags, "--http-listen", b.plainTarget)
	}
	if socket {
		b.target = filepath.Join(dir, "derp")
		flags = append(flags, "--listen", "unix:"+b.target)
	}
	b.relay = startRelay(t, relaySpec{tls: overTLS, ownFlags: flags})
	if !socket {
		b.target = b.relay.addr()
	}
	return b
}

// front is the proxy as if it were a relay with TLS.
func (b *behind) front() *relay {
	_, port, _ := net.SplitHostPort(b.secure)
	number, _ := strconv.Atoi(port)
	return &relay{spec: relaySpec{tls: true, host: relayHost}, port: number, gone: make(chan struct{})}
}

// exchangeThrough has two real clients talk through the proxy, and asks the relay where it believes they are.
func exchangeThrough(t *testing.T, b *behind) {
	t.Helper()
	front := b.front()
	alice, bob := join(t, front, tls13, "alice"), join(t, front, tls12, "bob")
	for n, size := range []int{1, 1280, 60000} {
		data := packet(7, uint64(n), size)
		alice.send(bob.public, data)
		bob.wantPacket(alice.public, data)
		bob.send(alice.public, data)
		alice.wantPacket(bob.public, data)
	}
	b.wantAddress(t, alice.public, "127.0.0.1")
	b.wantAddress(t, bob.public, "127.0.0.1")
	// Another client of the same proxy, from another address of this machine.
	carol := join(t, front, transport{name: "elsewhere", tls: true, config: tls13.config, from: "127.0.0.7"}, "carol")
	b.wantAddress(t, carol.public, "127.0.0.7")
}

func (b *behind) wantAddress(t *testing.T, public key.NodePublic, want string) {
	t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{Dial: func(string, string) (net.Conn, error) {
		return net.Dial("unix", b.admin)
	}}}
	resp, err := client.Get("http://admin/debug/clients?format=json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var page struct {
		Clients []struct{ Key, Address string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
		t.Fatalf("/debug/clients: %v", err)
	}
	for _, client := range page.Clients {
		if client.Key == public.String() {
			if !strings.HasPrefix(client.Address, want+":") {
				t.Errorf("the relay has the client at %q; want %s", client.Address, want)
			}
			return
		}
	}
	t.Errorf("the relay does not know %v among %d clients", public, len(page.Clients))
}

// captivePortal asks what clients ask before they trust a network, in plain HTTP through the proxy.
func captivePortal(t *testing.T, address string) {
	t.Helper()
	request, _ := http.NewRequest("GET", "http://"+address+"/generate_204", nil)
	request.Header.Set("X-Tailscale-Challenge", "ts_derp.test")
	resp, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Header.Get("X-Tailscale-Response"); resp.StatusCode != 204 || got != "response ts_derp.test" {
		t.Errorf("the check for captive portals is answered with %s, %q", resp.Status, got)
	}
}

// systemTool finds a program that Debian has, also where it has what only root usually runs. Where it is missing the
// test says so, and fails if it must not be.
func systemTool(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin") {
		if path := filepath.Join(dir, name); exec.Command(path, "-v").Run() == nil {
			return path
		}
	}
	if os.Getenv("DERPRING_REQUIRE_TOOLS") == "1" {
		t.Fatalf("%s is missing, and DERPRING_REQUIRE_TOOLS=1", name)
	}
	leaveOut(t, name+" is missing")
	return ""
}

// runProxy starts the proxy, waits until both of its listeners are there, and ends it with the test.
func runProxy(t *testing.T, b *behind, program string, args ...string) {
	t.Helper()
	var output tail
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := startBound(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", program, output.since(0))
		}
	})
	for _, address := range []string{b.secure, b.plain} {
		for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				conn.Close()
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s does not listen on %s: %v", program, address, err)
			}
		}
	}
}

// replaced reads a file and replaces each text, which must be in it.
func replaced(t *testing.T, path string, replacements [][2]string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for _, pair := range replacements {
		if !strings.Contains(text, pair[0]) {
			t.Fatalf("%s does not hold %q", path, pair[0])
		}
		text = strings.ReplaceAll(text, pair[0], pair[1])
	}
	return text
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
