package interop

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A compared request goes to derper and to the relay under test; what comes back is the same, or docs/DERPER.md says so.
type compared struct {
	// name is what the list of differences calls it. Requests that differ for one reason have one name.
	name string
	// method is that of the request, which says whether the answer has a body.
	method string
	text   string
	// headOnly leaves the body out: it tells of the process that made it.
	headOnly bool
}

// of makes a request of its own. More headers may follow.
func of(name, method, target string, headers ...string) compared {
	text := method + " " + target + " HTTP/1.1\r\nHost: " + relayHost + "\r\n"
	for _, header := range headers {
		text += header + "\r\n"
	}
	return compared{name: name, method: method, text: text + "\r\n"}
}

func verbatim(name, method, text string) compared {
	return compared{name: name, method: method, text: text}
}

// mattering are the headers that somebody reads. Date, and lengths that follow from the body, are not among them.
var mattering = []string{
	"Access-Control-Allow-Origin", "Allow", "Cache-Control", "Connection", "Content-Security-Policy", "Content-Type",
	"Location", "Strict-Transport-Security", "Transfer-Encoding", "Upgrade", "X-Content-Type-Options", "X-Frame-Options",
	"X-Tailscale-Response",
}

var onMain = []compared{
	of("home page", "GET", "/"),
	of("home page", "GET", "/no/such/page"),
	of("home page", "GET", "/derp/"),
	of("home page, POST", "POST", "/", "Content-Length: 0"),
	of("home page, HEAD", "HEAD", "/"),
	of("robots", "GET", "/robots.txt"),
	of("probe", "GET", "/derp/probe"),
	of("probe", "HEAD", "/derp/probe"),
	of("probe", "GET", "/derp/latency-check"),
	of("probe", "HEAD", "/derp/latency-check?x=y"),
	of("probe", "POST", "/derp/probe", "Content-Length: 3", "Connection: close"),
	of("probe, OPTIONS", "OPTIONS", "/derp/probe", "Origin: https://a.example", "Access-Control-Request-Method: GET"),
	of("probe, OPTIONS", "OPTIONS", "/derp/latency-check"),
	of("captive portal", "GET", "/generate_204"),
	of("captive portal", "POST", "/generate_204", "Content-Length: 0", "X-Tailscale-Challenge: ts_derp-1.a:443"),
	of("captive portal", "GET", "/generate_204", "X-Tailscale-Challenge: no spaces"),
	of("derp without upgrade", "GET", "/derp"),
	of("derp without upgrade", "GET", "/derp", "Upgrade: h2c", "Connection: Upgrade"),
	of("derp without upgrade", "HEAD", "/derp"),
	of("bootstrap-dns", "GET", "/bootstrap-dns"),
	of("bootstrap-dns", "GET", "/bootstrap-dns?q=a.example"),
	of("bootstrap-dns", "HEAD", "/bootstrap-dns"),
	of("unclean path", "GET", "//derp"),
	of("unclean path", "GET", "/a/../b?q=1"),
	of("unclean path", "HEAD", "/x/./"),
	of("debug without a slash", "GET", "/debug?x"),
	of("debug, denied", "GET", "/debug/", "X-Forwarded-For: 127.0.0.1"),
	of("debug, denied", "HEAD", "/debug/vars", "X-Forwarded-For: 127.0.0.1"),
	of("debug, no such page", "GET", "/debug/no-such-page"),
	of("debug", "GET", "/debug/check"),
	{name: "debug index", method: "GET", text: of("", "GET", "/debug/").text, headOnly: true},
	of("options for all", "OPTIONS", "*"),
	of("absolute form", "GET", "http://other.example/derp/probe"),
	of("unknown method", "BREW", "/robots.txt"),
	of("connection is to close", "GET", "/derp/probe", "Connection: close"),
	verbatim("HTTP/1.0", "GET", "GET /derp/probe HTTP/1.0\r\n\r\n"),
	verbatim("HTTP/1.0", "GET", "GET /derp/probe HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
	verbatim("no host", "GET", "GET / HTTP/1.1\r\n\r\n"),
	verbatim("two hosts", "GET", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
	verbatim("malformed host", "GET", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
	verbatim("space before a colon", "GET", "GET / HTTP/1.1\r\nHost : h\r\n\r\n"),
	verbatim("malformed request", "GET", "nonsense\r\n\r\n"),
	verbatim("malformed request", "GET", "GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n"),
	verbatim("folded header", "GET", "GET /derp/probe HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n"),
	verbatim("HTTP/3.0", "GET", "GET / HTTP/3.0\r\nHost: h\r\n\r\n"),
	verbatim("two lengths", "POST", "POST /derp/probe HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
	of("chunked body", "POST", "/derp/probe", "Transfer-Encoding: chunked", "Connection: close"),
	of("expected body", "POST", "/derp/probe", "Expect: 100-continue", "Content-Length: 5"),
	of("huge head", "GET", "/robots.txt", "X: "+strings.Repeat("x", 20<<10)),
}

var onHTTP = []compared{
	of("plain HTTP, redirect", "GET", "/"+"?x"),
	of("plain HTTP, redirect", "GET", "/derp/probe?a=b%20c"),
	of("plain HTTP, redirect", "HEAD", "/robots.txt"),
	of("plain HTTP, redirect", "GET", "/derp", "Upgrade: DERP", "Connection: Upgrade"),
	of("plain HTTP, redirect", "GET", "/.well-known/acme-challenge/token"),
	of("plain HTTP, to the debug pages", "GET", "/"),
	of("plain HTTP, unclean path", "GET", "//derp"),
	of("plain HTTP, captive portal", "GET", "/generate_204", "X-Tailscale-Challenge: abc"),
	of("plain HTTP, other methods", "POST", "/", "Content-Length: 0"),
	of("plain HTTP, other methods", "OPTIONS", "/derp/probe"),
	of("plain HTTP, CONNECT", "CONNECT", "a.tailscale.com:443"),
	of("plain HTTP, debug", "GET", "/debug"),
	of("plain HTTP, debug", "GET", "/debug/check"),
	of("plain HTTP, debug", "GET", "/debug/check", "X-Forwarded-For: 1.2.3.4"),
	of("home page", "GET", "/debugging"),
	verbatim("plain HTTP, no host", "GET", "GET /x HTTP/1.0\r\n\r\n"),
	verbatim("plain HTTP, absolute form", "GET", "GET http://other.example/x HTTP/1.1\r\nHost: h\r\n\r\n"),
}

// TestHTTPCompared: everything that is asked over HTTP is answered as derper answers, or the difference is on the list.
func TestHTTPCompared(t *testing.T) {
	if testingReference() {
		t.Skip("derper is compared with others, not with itself")
	}
	names := []string{"-bootstrap-dns-names=localhost", "-unpublished-bootstrap-dns-names=localhost4.invalid"}
	found := map[deviation]string{}
	for _, set := range []struct {
		tls, http bool
		flags     []string
		requests  []compared
	}{
		{tls: true, requests: append(onMain,
			of("CONNECT, off", "CONNECT", "controlplane.tailscale.com:443"))},
		{requests: append(onMain,
			of("CONNECT, without TLS", "CONNECT", "controlplane.tailscale.com:443"))},
		{tls: true, http: true, requests: onHTTP},
		{tls: true, flags: []string{"-ace"}, requests: []compared{
			of("CONNECT", "CONNECT", "example.com:443"),
			of("CONNECT", "CONNECT", "controlplane.tailscale.com:22"),
			of("CONNECT", "CONNECT", "derp1.tailscale.com:443"),
		}},
		{flags: append(names, "-derp=false", "-home=blank"), requests: []compared{
			of("derp, disabled", "GET", "/derp", "Upgrade: DERP", "Connection: Upgrade"),
			of("probe", "GET", "/derp/probe"),
			of("home page, blank", "GET", "/x"),
			of("home page, blank", "HEAD", "/"),
			{name: "bootstrap-dns", method: "GET", text: of("", "GET", "/bootstrap-dns").text, headOnly: true},
		}},
		{flags: []string{"-home=https://example.com/?a=1&b"}, requests: []compared{
			of("home page, elsewhere", "GET", "/x?y"),
			of("home page, elsewhere", "HEAD", "/"),
			of("home page, elsewhere", "POST", "/", "Content-Length: 0"),
		}},
	} {
		reference, ours := comparedRelays(t, set.tls, set.http, set.flags)
		for _, request := range set.requests {
			want, got := reference.ask(t, request), ours.ask(t, request)
			for what := range want {
				if want[what] != got[what] {
					found[deviation{request.name, what}] = fmt.Sprintf("%.60q: derper %q, here %q", request.text, want[what], got[what])
				}
			}
		}
	}
	listed := listedDifferences(t)
	for at, values := range found {
		if !slices.Contains(listed, at) {
			t.Errorf("%s, %s: %s; it is not in docs/DERPER.md", at.name, at.what, values)
		}
	}
	for _, at := range listed {
		if _, still := found[at]; !still {
			t.Errorf("docs/DERPER.md lists %q, %q, where there is no difference", at.name, at.what)
		}
	}
}

// A deviation is in the status, in the body, or in a header.
type deviation struct{ name, what string }

// listedDifferences reads the tables of the section.
func listedDifferences(t *testing.T) (listed []deviation) {
	t.Helper()
	text, err := os.ReadFile("../../docs/DERPER.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## HTTP answers\n")
	section, _, _ = strings.Cut(section, "\n## ")
	row := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\|")
	for _, match := range row.FindAllStringSubmatch(section, -1) {
		for _, what := range strings.Split(match[2], ",") {
			listed = append(listed, deviation{match[1], strings.TrimSpace(what)})
		}
	}
	if len(listed) == 0 {
		t.Fatal("docs/DERPER.md has no list of differences in HTTP answers")
	}
	return listed
}

// comparedAt is a listener of a relay.
type comparedAt struct {
	address string
	tls     bool
}

func comparedRelays(t *testing.T, overTLS, http bool, flags []string) (reference, ours comparedAt) {
	t.Helper()
	derper, err := derperBinary()
	if err != nil {
		t.Fatal(err)
	}
	start := func(spec relaySpec) comparedAt {
		spec.tls, spec.asDerper = overTLS, true
		spec.flags = flags
		port := 0
		if http {
			var err error
			if port, err = freePort(); err != nil {
				t.Fatal(err)
			}
			spec.flags = append(slices.Clone(flags), "-http-port="+strconv.Itoa(port))
		}
		r := startRelay(t, spec)
		if !http {
			return comparedAt{r.addr(), overTLS}
		}
		at := comparedAt{net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), false}
		for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			conn, err := net.Dial("tcp", at.address)
			if err == nil {
				conn.Close()
				return at
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s does not listen for plain HTTP: %v", spec.flavour, err)
			}
		}
	}
	return start(relaySpec{binary: derper, flavour: flavourDerper}), start(relaySpec{})
}

// ask sends a request over a connection of its own. The answer is a map, so that its parts can be compared one by one.
func (at comparedAt) ask(t *testing.T, request compared) map[string]string {
	t.Helper()
	conn, err := net.Dial("tcp", at.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if at.tls {
		conn = tls.Client(conn, &tls.Config{RootCAs: scratch.pki.roots, ServerName: relayHost, NextProtos: []string{"http/1.1"}})
	}
	if _, err := io.WriteString(conn, request.text); err != nil {
		t.Fatalf("%.60q: %v", request.text, err)
	}
	reader := bufio.NewReader(conn)
	var resp *http.Response
	if resp, err = http.ReadResponse(reader, &http.Request{Method: request.method}); err != nil {
		t.Fatalf("%.60q: %v", request.text, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil && err != io.ErrUnexpectedEOF {
		t.Fatalf("%.60q: reading the body: %v", request.text, err)
	}
	answer := map[string]string{"status": strconv.Itoa(resp.StatusCode), "version": resp.Proto, "body": string(body)}
	if request.headOnly {
		delete(answer, "body")
	}
	if resp.Close {
		resp.Header.Set("Connection", "close")
	}
	for _, name := range mattering {
		answer[name] = strings.Join(resp.Header.Values(name), ", ")
	}
	return answer
}
