package interop

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
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
	onlyReference(t, "WebSocket is not built yet")
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
	onlyReference(t, "WebSocket is not built yet")
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

		query := url.Values{"relay": {strings.TrimSuffix(r.url(""), "/")}, "limit": {messageLimit()}, "peer": {rawHex(bob)}}
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

		// The page speaks first, so that its key is known.
		hello, err := bob.next()
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
