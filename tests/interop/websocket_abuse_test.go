package interop

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"tailscale.com/derp"
)

// wantEnded insists on the end of the connection, whatever comes before.
func (w *wsConn) wantEnded() {
	w.t.Helper()
	w.extend()
	for !w.event().ended {
	}
}

// TestWebSocketHeldOpen: whoever does not answer a Close frame does not keep the connection.
func TestWebSocketHeldOpen(t *testing.T) {
	skipReference(t, "waits five seconds for an answer, and after a message that is too large for ever")
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		for _, c := range []struct {
			name  string
			frame wsFrame
			code  string
		}{
			{"a message that is too large", wsFrame{opcode: opBinary, claims: wsLimit + 1}, "close(1009)"},
			{"a text", wsFrame{opcode: opText}, "close(1003)"},
			{"a reserved opcode", wsFrame{opcode: 3}, "close(1002)"},
		} {
			for _, loggedIn := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, logged in %v", c.name, loggedIn), func(t *testing.T) {
					w := wsDial(t, r, tr)
					w.wantServerKey()
					if loggedIn {
						w.login()
					}
					w.write(c.frame.bytes())
					if got := w.event().String(); got != c.code {
						t.Errorf("got %s; want %s", got, c.code)
					}
					w.wantEnd()
				})
			}
		}
	})
}

// TestWebSocketHalves: a client that disappears at any byte of a frame is gone for its peers, and takes nobody with it.
func TestWebSocketHalves(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		bob := join(t, r, tr, "bob")
		long := wsFrame{opcode: opBinary, payload: make([]byte, 70000)}.bytes()
		halves := [][]byte{wsPing("half")[:5], wsCloseFrame(1000, "bye")[:7], wsFrame{opcode: opBinary, more: true}.bytes()}
		for cut := 1; cut < 18; cut++ {
			halves = append(halves, long[:cut])
		}
		for n, half := range append(halves, long[:50000]) {
			w := wsLogin(t, r, tr)
			w.write(wsMessage(frame(derp.FrameSendPacket, bob.public.AppendTo(nil), packet(4, uint64(n), 100))))
			bob.wantPacket(w.public, packet(4, uint64(n), 100))
			w.write(half)
			w.conn.Close()
			bob.wantGone(w.public, derp.PeerGoneReasonDisconnected)
		}
		bob.wantPong()
	})
}

// TestWebSocketSlowly: the upgrade, the login and packets arrive byte by byte.
func TestWebSocketSlowly(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		w := wsRequest(t, r, tr, wsHandshake(relayHost, wsProtocol))
		w.wantUpgraded("derp")
		w.wantServerKey()
		s := &wsScript{wsConn: w, chop: 1}
		s.message(300)
		for n := range 5 {
			s.fragments(s.data(100+n), 7)
		}
		for range 6 {
			s.answered(w.event())
		}
		w.wantAlive()
	})
}

// TestWebSocketStalledReceiver: one that does not read costs nobody else anything, and what it finds when it reads at last is
// whole messages with whole packets in order, though much may be missing.
func TestWebSocketStalledReceiver(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		alice, bob, flooder := join(t, r, tr, "alice"), join(t, r, tr, "bob"), join(t, r, tr, "flooder")
		stalled := wsLogin(t, r, tr)
		const total = 1500
		var work errgroup.Group
		work.Go(func() error {
			for n := range uint64(total) {
				if err := flooder.client.Send(stalled.public, packet(1, n, 30000)); err != nil {
					return fmt.Errorf("the flooder's packet %d: %w", n, err)
				}
			}
			return nil
		})
		work.Go(func() error {
			for n := range uint64(300) {
				if err := roundTrip(alice, bob, 3, n); err != nil {
					return err
				}
			}
			return nil
		})
		if err := work.Wait(); err != nil {
			t.Fatal(err)
		}
		// It may have been given up, so that there need not be a last one.
		last := int64(-1)
		stalled.extend()
		for last < total-1 {
			e := stalled.event()
			if e.ended || e.opcode == opClose {
				break
			}
			if e.opcode != opBinary || e.kind != derp.FrameRecvPacket {
				t.Fatalf("got %v; want packets", e)
			}
			_, number, err := stamp(e.payload[derp.KeyLen:])
			if err != nil {
				t.Fatal(err)
			}
			if int64(number) <= last {
				t.Fatalf("packet %d comes behind packet %d", number, last)
			}
			last = int64(number)
		}
		if last < 0 {
			t.Fatal("not one packet arrived")
		}
	})
}

// TestWebSocketWordsAmidBacklog: pongs, and at last a Close, never get into the middle of what a client was slow to read.
func TestWebSocketWordsAmidBacklog(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		flooder, stalled := join(t, r, tr, "flooder"), wsLogin(t, r, tr)
		const total = 600
		for n := range uint64(total) {
			flooder.send(stalled.public, packet(1, n, 30000))
			if n%50 == 0 {
				stalled.write(wsPing(fmt.Sprintf("ping %d", n/50)))
			}
		}
		stalled.write(wsFrame{opcode: opText, payload: []byte("Hello")}.bytes())
		last, lastPong := int64(-1), -1
		for {
			e := stalled.event()
			switch {
			case e.ended:
				// Where the socket was full, without a word.
				if last < 0 {
					t.Fatal("not one packet arrived")
				}
				return
			case e.opcode == opPong:
				var number int
				if _, err := fmt.Sscanf(string(e.payload), "ping %d", &number); err != nil || number <= lastPong {
					t.Fatalf("%v behind pong %d", e, lastPong)
				}
				lastPong = number
			case e.opcode == opClose:
				if got := e.String(); got != "close(1003)" {
					t.Fatalf("got %s", got)
				}
			case e.opcode != opBinary || e.kind != derp.FrameRecvPacket:
				t.Fatalf("got %v; want packets", e)
			default:
				_, number, err := stamp(e.payload[derp.KeyLen:])
				if err != nil || int64(number) <= last {
					t.Fatalf("packet %d behind packet %d: %v", number, last, err)
				}
				last = int64(number)
			}
		}
	})
}

// TestWebSocketPingFlood: whoever pings and takes no pongs is not owed all of them. The relay's memory stays, and others are
// served.
func TestWebSocketPingFlood(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		for _, loggedIn := range []bool{false, true} {
			t.Run(fmt.Sprintf("logged in %v", loggedIn), func(t *testing.T) {
				alice, bob := join(t, r, tr, "alice"), join(t, r, tr, "bob")
				w := wsDial(t, r, tr)
				w.wantServerKey()
				if loggedIn {
					w.login()
				}
				before := resident(t, r)
				burst := bytes.Repeat(wsPing(strings.Repeat("p", 125)), 500)
				var work errgroup.Group
				work.Go(func() error {
					// 32 MiB, unless the relay stops taking them, as it may, or hangs up.
					for range 512 {
						w.conn.SetWriteDeadline(time.Now().Add(time.Second))
						if _, err := w.conn.Write(burst); err != nil {
							return nil
						}
					}
					return nil
				})
				work.Go(func() error {
					for n := range uint64(300) {
						if err := roundTrip(alice, bob, 3, n); err != nil {
							return err
						}
					}
					return nil
				})
				if err := work.Wait(); err != nil {
					t.Fatal(err)
				}
				if now := resident(t, r); now > before+16<<20 {
					t.Errorf("the relay has grown from %d to %d bytes", before, now)
				}
			})
		}
	})
}

// TestWebSocketEmptyFlood: frames that carry nothing never become more than that.
func TestWebSocketEmptyFlood(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		alice, bob := join(t, r, tr, "alice"), join(t, r, tr, "bob")
		w := wsLogin(t, r, tr)
		w.write(wsFrame{opcode: opBinary, more: true}.bytes())
		burst := bytes.Repeat(wsFrame{more: true}.bytes(), 5000)
		var work errgroup.Group
		work.Go(func() error {
			for range 200 {
				w.extend()
				if _, err := w.conn.Write(burst); err != nil {
					return err
				}
			}
			return nil
		})
		work.Go(func() error {
			for n := range uint64(300) {
				if err := roundTrip(alice, bob, 3, n); err != nil {
					return err
				}
			}
			return nil
		})
		if err := work.Wait(); err != nil {
			t.Fatal(err)
		}
		w.write(wsFrame{}.bytes())
		w.wantAlive()
	})
}

// TestWebSocketSilence: who upgrades and says nothing of DERP is gone in good time, pings or not.
func TestWebSocketSilence(t *testing.T) {
	t.Parallel() // it mostly waits
	r := startRelay(t, relaySpec{})
	for _, pings := range []bool{false, true} {
		t.Run(fmt.Sprintf("pings %v", pings), func(t *testing.T) {
			t.Parallel()
			w := wsDial(t, r, plain)
			w.wantServerKey()
			over := make(chan struct{})
			defer close(over)
			go func() {
				for pings {
					select {
					case <-over:
						return
					case <-time.After(50 * time.Millisecond):
						w.tryWrite(wsPing("still here"))
					}
				}
			}()
			for {
				e := w.event()
				if errors.Is(e.err, os.ErrDeadlineExceeded) {
					t.Fatalf("still connected after %v", patience)
				}
				if e.ended {
					return
				}
			}
		})
	}
}

// TestWebSocketFin: the end of the TCP stream is the end, with or without a Close frame before it.
func TestWebSocketFin(t *testing.T) {
	r := sharedRelay(t, false)
	bob := join(t, r, plain, "bob")
	for _, farewell := range [][]byte{nil, wsCloseFrame(1001, "tab closed")} {
		w := wsLogin(t, r, plain)
		w.write(wsMessage(frame(derp.FrameSendPacket, bob.public.AppendTo(nil), packet(5, 1, 100))))
		bob.wantPacket(w.public, packet(5, 1, 100))
		if farewell != nil {
			w.write(farewell)
		}
		w.conn.(*net.TCPConn).CloseWrite()
		w.wantEnded()
		bob.wantGone(w.public, derp.PeerGoneReasonDisconnected)
	}
}

// resident is how much memory the relay has now.
func resident(t *testing.T, r *relay) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmRSS:" {
			kib, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("no VmRSS in %q", status)
	return 0
}
