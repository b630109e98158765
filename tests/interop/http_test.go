package interop

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"

	"tailscale.com/derp"
)

// ask sends one request on an open connection and reads the whole answer, so that the connection can be used again.
func (s *raw) ask(method, path string, headers ...string) (*http.Response, string) {
	s.t.Helper()
	request := method + " " + path + " HTTP/1.1\r\nHost: " + relayHost + "\r\n"
	for _, header := range headers {
		request += header + "\r\n"
	}
	s.write([]byte(request + "\r\n"))
	return s.answer(method, path)
}

func (s *raw) answer(method, path string) (*http.Response, string) {
	s.t.Helper()
	resp, err := http.ReadResponse(s.reader, &http.Request{Method: method})
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s %s: reading the body: %v", method, path, err)
	}
	return resp, string(body)
}

// TestProbe: what clients without UDP measure latency with, from a browser too.
func TestProbe(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		for _, path := range []string{"/derp/probe", "/derp/latency-check"} {
			for _, method := range []string{"GET", "HEAD"} {
				resp, body := rawDial(t, r, tr).ask(method, path)
				if resp.StatusCode != http.StatusOK || body != "" {
					t.Errorf("%s %s: %s, body %q; want 200 and no body", method, path, resp.Status, body)
				}
				if got := resp.Header.Get("Access-Control-Allow-Origin"); got != "*" {
					t.Errorf("%s %s: Access-Control-Allow-Origin %q; want *", method, path, got)
				}
			}
			if resp, _ := rawDial(t, r, tr).ask("POST", path, "Content-Length: 0"); resp.StatusCode != http.StatusMethodNotAllowed {
				t.Errorf("POST %s: %s; want 405", path, resp.Status)
			}
		}
	})
}

// TestGenerate204: the captive portal check, with its challenge.
func TestGenerate204(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		good := "ts_derp-1.example:443"
		for challenge, want := range map[string]string{
			"":                      "",
			good:                    "response " + good,
			strings.Repeat("x", 64): "response " + strings.Repeat("x", 64),
			strings.Repeat("x", 65): "",
			"no spaces":             "",
			"no/slash":              "",
			"nö":                    "",
		} {
			var headers []string
			if challenge != "" {
				headers = append(headers, "X-Tailscale-Challenge: "+challenge)
			}
			resp, body := rawDial(t, r, tr).ask("GET", "/generate_204", headers...)
			if resp.StatusCode != http.StatusNoContent || body != "" {
				t.Errorf("challenge %q: %s, body %q; want 204", challenge, resp.Status, body)
			}
			if got := resp.Header.Get("X-Tailscale-Response"); got != want {
				t.Errorf("challenge %q: response %q; want %q", challenge, got, want)
			}
			if got := resp.Header.Get("Cache-Control"); !strings.Contains(got, "no-store") {
				t.Errorf("challenge %q: Cache-Control %q; want no-store in it", challenge, got)
			}
		}
	})
}

// TestUpgradeRequired: /derp without the header that asks for DERP, or with a wrong one.
func TestUpgradeRequired(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		for _, headers := range [][]string{nil, {"Upgrade: h2c", "Connection: Upgrade"}, {"Connection: Upgrade"}, {"Upgrade: DERP, h2c"}} {
			resp, body := rawDial(t, r, tr).ask("GET", "/derp", headers...)
			if resp.StatusCode != http.StatusUpgradeRequired || !strings.Contains(body, "DERP requires connection upgrade") {
				t.Errorf("headers %q: %s, body %q; want 426 and the reason", headers, resp.Status, body)
			}
		}
	})
}

// TestKeepAlive: one connection takes several requests before it becomes DERP, one after another or all at once.
func TestKeepAlive(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		bob := join(t, r, tr, "bob")
		steps := []struct {
			method, path string
			want         int
		}{
			{"GET", "/derp/probe", 200},
			{"HEAD", "/derp/latency-check", 200},
			{"GET", "/generate_204", 204},
			{"GET", "/derp", 426},
			{"GET", "/derp/probe", 200},
		}
		finish := func(s *raw) {
			t.Helper()
			resp, err := http.ReadResponse(s.reader, nil)
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("the upgrade after other requests: %v, %v; want 101", resp, err)
			}
			s.wantServerKey()
			s.write(frame(derp.FrameClientInfo, s.clientInfo(ordinaryInfo)))
			s.wantServerInfo()
			data := packet(1, 1, 1400)
			s.write(frame(derp.FrameSendPacket, bob.public.AppendTo(nil), data))
			bob.wantPacket(s.public, data)
		}

		s := rawDial(t, r, tr)
		for _, step := range steps {
			if resp, _ := s.ask(step.method, step.path); resp.StatusCode != step.want {
				t.Fatalf("%s %s on a used connection: %s; want %d", step.method, step.path, resp.Status, step.want)
			}
		}
		s.write([]byte(upgradeRequest(r)))
		finish(s)

		s = rawDial(t, r, tr)
		var all strings.Builder
		for _, step := range steps {
			all.WriteString(step.method + " " + step.path + " HTTP/1.1\r\nHost: " + relayHost + "\r\n\r\n")
		}
		s.write([]byte(all.String() + upgradeRequest(r)))
		for _, step := range steps {
			if resp, _ := s.answer(step.method, step.path); resp.StatusCode != step.want {
				t.Fatalf("%s %s among pipelined requests: %s; want %d", step.method, step.path, resp.Status, step.want)
			}
		}
		finish(s)
	})
}

// TestPlainOnTLS: who forgets the s in https is told so, in HTTP.
func TestPlainOnTLS(t *testing.T) {
	s := rawDial(t, sharedRelay(t, true), plain)
	s.write([]byte("GET /derp/probe HTTP/1.1\r\nHost: " + relayHost + "\r\n\r\n"))
	resp, err := http.ReadResponse(bufio.NewReader(s.conn), nil)
	if err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("plain HTTP on the TLS port: %v, %v; want 400", resp, err)
	}
}
