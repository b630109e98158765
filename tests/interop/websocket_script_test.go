package interop

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp"
)

// browserDir holds what runs in Node and in a browser.
const browserDir = "../browser"

// finding is what a judge that is no Go program says of one thing that it tried.
type finding struct {
	Name  string `json:"name"`
	Wrong string `json:"wrong"`
}

func reportFindings(t *testing.T, findings []finding) {
	t.Helper()
	if len(findings) < 10 {
		t.Errorf("the judge tried only %d things", len(findings))
	}
	for _, f := range findings {
		t.Run(f.Name, func(t *testing.T) {
			if f.Wrong != "" {
				t.Error(f.Wrong)
			}
		})
	}
}

// messageLimit is what the relay takes in one message.
func messageLimit() string {
	if testingReference() {
		return "32768"
	}
	return strconv.Itoa(wsLimit)
}

// TestWebSocketNode: Node's ws library is the client of many programs, and a strict one.
func TestWebSocketNode(t *testing.T) {
	node, modules := tool(t, "node"), nodeModules(t)
	overTransports(t, []transport{plain, tls13, tls12}, func(t *testing.T, r *relay, tr transport) {
		args := []string{filepath.Join(modules, "node.js"), strings.Replace(r.url("/derp"), "http", "ws", 1), "--address", "127.0.0.1",
			"--limit", messageLimit(), "--ca", filepath.Join(modules, "root.pem")}
		if tr.name == tls12.name {
			args = append([]string{"--tls-max-v1.2"}, args...)
		}
		cmd := exec.Command(node, args...)
		cmd.Dir = modules
		var report, complaints bytes.Buffer
		cmd.Stdout, cmd.Stderr = &report, &complaints
		if err := runBound(t, cmd, 3*patience); err != nil {
			t.Fatalf("node: %v\n%s", err, complaints.String())
		}
		var findings []finding
		if err := json.Unmarshal(report.Bytes(), &findings); err != nil {
			t.Fatalf("the report %q: %v", report.String(), err)
		}
		reportFindings(t, findings)
	})
}

// TestWebSocketBrowser: a page in a real browser logs in, echoes packets to itself and to a peer outside, and measures as a
// page that looks for the nearest relay does.
func TestWebSocketBrowser(t *testing.T) {
	browser, modules := tool(t, "chromium"), nodeModules(t)
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		bob := join(t, r, tr, "bob")
		reports := make(chan []finding, 1)
		pages := http.NewServeMux()
		pages.Handle("GET /", http.FileServer(http.Dir(browserDir)))
		pages.HandleFunc("GET /nacl-fast.min.js", func(w http.ResponseWriter, req *http.Request) {
			http.ServeFile(w, req, filepath.Join(modules, "node_modules/tweetnacl/nacl-fast.min.js"))
		})
		pages.HandleFunc("POST /report", func(w http.ResponseWriter, req *http.Request) {
			var findings []finding
			if err := json.NewDecoder(req.Body).Decode(&findings); err != nil {
				t.Errorf("the page's report: %v", err)
			}
			reports <- findings
		})
		server := httptest.NewServer(pages)
		defer server.Close()

		query := url.Values{"relay": {strings.TrimSuffix(r.url(""), "/")}, "limit": {messageLimit()}, "peer": {bob.public.UntypedHexString()}}
		pin := sha256.Sum256(scratch.pki.leaf.RawSubjectPublicKeyInfo)
		var output tail
		cmd := exec.Command(browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
			"--no-proxy-server", "--disable-extensions", "--disable-background-networking", "--disable-component-update",
			"--user-data-dir="+t.TempDir(), "--host-resolver-rules=MAP "+relayHost+" 127.0.0.1",
			"--ignore-certificate-errors-spki-list="+base64.StdEncoding.EncodeToString(pin[:]),
			server.URL+"/page.html?"+query.Encode())
		cmd.Stdout, cmd.Stderr = &output, &output
		stop := startGroup(t, cmd)
		defer stop()

		// The page speaks first, so that its key is known. A browser takes its time to start.
		hello, err := bob.next()
		for range 2 {
			if err != nil {
				hello, err = bob.next()
			}
		}
		if err != nil {
			t.Fatalf("nothing from the page: %v\nthe browser says:\n%s", err, output.since(0))
		}
		echoWithPage(t, bob, hello)
		select {
		case findings := <-reports:
			reportFindings(t, findings)
		case <-time.After(3 * patience):
			t.Fatalf("no report from the page; the browser says:\n%s", output.since(0))
		}
	})
}

// echoWithPage sends packets to whoever said hello, which returns them.
func echoWithPage(t *testing.T, bob *peer, hello derp.ReceivedMessage) {
	t.Helper()
	first, ok := hello.(derp.ReceivedPacket)
	if !ok || string(first.Data) != "Hello from a page" {
		t.Fatalf("got %s; want a greeting from the page", describe(hello))
	}
	for n, size := range []int{1, 100, 1400, 16 << 10, 30000, 60 << 10, maxPacket} {
		if size > 32000 && testingReference() {
			continue // derper takes no message of more than 32768 bytes
		}
		data := packet(8, uint64(n), size)
		bob.send(first.Source, data)
		bob.wantPacket(first.Source, data)
	}
	bob.send(first.Source, []byte("Farewell"))
	bob.wantGone(first.Source, derp.PeerGoneReasonDisconnected)
}

// tool is where a program is that CI has and a developer may not have.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, fmt.Sprintf("there is no %s: %v", name, err))
	}
	return path
}

// missing leaves a test out for want of a tool, except where all tools are required.
func missing(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("DERPRING_REQUIRE_TOOLS") == "1" {
		t.Fatalf("%s, and DERPRING_REQUIRE_TOOLS=1", reason)
	}
	leaveOut(t, reason)
}

// nodeModules is a folder with what is in browserDir and the packages that its lockfile names.
func nodeModules(t *testing.T) string {
	t.Helper()
	npm := tool(t, "npm")
	dir, err := installModules(npm)
	if err != nil {
		missing(t, err.Error())
	}
	return dir
}

// installModules keeps what it has downloaded where INTEROP_CACHE says, for the runs to come, under the lockfile's hash.
func installModules(npm string) (string, error) {
	lock, err := os.ReadFile(filepath.Join(browserDir, "package-lock.json"))
	if err != nil {
		return "", err
	}
	dir := filepath.Join(scratch.dir, "browser")
	if err := os.CopyFS(dir, os.DirFS(browserDir)); errors.Is(err, fs.ErrExist) {
		return dir, nil // by an earlier test of this run
	} else if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "root.pem"), pemBlock("CERTIFICATE", scratch.pki.root.Raw), 0o644); err != nil {
		return "", err
	}
	hash := sha256.Sum256(lock)
	kept := filepath.Join(envOr("INTEROP_CACHE", scratch.dir), fmt.Sprintf("node_modules-%x", hash[:8]))
	if _, err := os.Stat(kept); err != nil {
		cmd := exec.Command(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		cmd.Dir = dir
		if output, err := cmd.CombinedOutput(); err != nil {
			os.RemoveAll(dir)
			return "", fmt.Errorf("npm ci: %v\n%s", err, output)
		}
		// Another run may have been faster, with the same.
		if err := os.Rename(filepath.Join(dir, "node_modules"), kept); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		os.RemoveAll(filepath.Join(dir, "node_modules"))
	}
	return dir, os.Symlink(kept, filepath.Join(dir, "node_modules"))
}

// startGroup starts a program that has children of its own; the function that it returns ends all of them.
func startGroup(t *testing.T, cmd *exec.Cmd) func() {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := startBound(cmd); err != nil {
		t.Fatal(err)
	}
	return func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	}
}

// runBound runs a program to its end, which has to come within the limit.
func runBound(t *testing.T, cmd *exec.Cmd, limit time.Duration) error {
	t.Helper()
	startGroup(t, cmd)
	late := time.AfterFunc(limit, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	if !late.Stop() {
		return fmt.Errorf("it had not ended after %v", limit)
	}
	return err
}
