package interop

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tailscale.com/derp"
)

// wsCase is one of Autobahn's cases (its sections 1 to 5, 7 and 9, and the numbers are its), asked in a way that a relay can
// answer: Autobahn wants an echo of whatever it sends, a relay wants DERP. So where Autobahn sends a message, a case sends a
// frame of DERP that is answered, and what comes back is written down as events:
//
//	echo          the answer to one frame of DERP, complete and right
//	alive         the answer to a last frame, sent when the case is over
//	pong(...)     a pong
//	close(1002)   a Close frame, which the client answers at once
//	end           the end of the TCP connection
//
// Each case is run for somebody who is about to log in and for a client, as these may be served by different code.
type wsCase struct {
	autobahn string
	section  string // of RFC 6455
	about    string
	send     func(*wsScript)
	want     []string // any of these
	// clientOnly: what it sends nobody may send before the login.
	clientOnly bool
	// differs is what derper does that we do not, and derper its events; without those nothing ever comes of it.
	differs string
	derper  []string
}

var (
	alive    = []string{"alive"}
	echoed   = []string{"echo alive"}
	violated = []string{"close(1002) end"}
	// More was on its way when the relay hung up: the kernel may then reset the connection, and the Close frame is lost.
	violatedAmidst = []string{"close(1002) end", "end"}
	closed         = []string{"close(1000) end"}
	notTaken       = []string{"close(1003) end"}
	tooBig         = []string{"close(1009) end"}
	tooBigAmidst   = []string{"close(1009) end", "end"}
	// "The minimal number of bytes MUST be used", but nobody has to mind. The first is what we and derper do.
	longForm = []string{"echo alive", "close(1002) end", "end"}
)

const (
	politely  = "ends the connection as if all was well"
	longForms = "does not mind that the length of a control frame takes 16 bits"
	smallOnes = "takes messages of 32768 bytes at most"
	waits     = "waits for the bytes before it judges their number"

	// What we take in one message.
	wsLimit = 128 << 10
)

func TestWebSocketRFC(t *testing.T) {
	cases := slices.Concat(wsMessages(), wsPings(), wsReserved(), wsFragments(), wsClosings(), wsLimits())
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		for _, state := range []string{"stranger", "client"} {
			t.Run(state, func(t *testing.T) {
				for _, c := range cases {
					if c.clientOnly && state == "stranger" || testingReference() && c.differs != "" && c.derper == nil {
						continue
					}
					t.Run(c.name(), func(t *testing.T) { c.run(t, r, tr, state == "client") })
				}
			})
		}
	})
}

func (c wsCase) name() string { return strings.TrimSpace(c.autobahn + " " + c.about) }

func (c wsCase) run(t *testing.T, r *relay, tr transport, loggedIn bool) {
	want := c.want
	if testingReference() && c.differs != "" {
		want = c.derper
	}
	w := wsDial(t, r, tr)
	w.wantServerKey()
	if loggedIn {
		w.login()
	}
	s := &wsScript{wsConn: w}
	c.send(s)
	if strings.HasSuffix(want[0], "alive") {
		s.chop = 0
		if !s.loggedIn && len(s.owed) == 0 {
			s.message(0)
			s.silent = true
		}
		// To ourselves, as packets do not overtake each other; the pong of a DERP ping may overtake any.
		s.write(wsMessage(frame(derp.FrameSendPacket, s.public.AppendTo(nil), lastWords)))
	}
	if got := strings.Join(s.events(), " "); !slices.Contains(want, got) {
		t.Errorf("RFC 6455, %s: got %q; want %q", c.section, got, want)
	}
}

var lastWords = []byte("the last")

// wsScript is a connection on which a case is played.
type wsScript struct {
	*wsConn
	chop   int      // bytes per write; 0 is all of them, and -1 a frame
	owed   [][]byte // the data of packets that have to come back; nil is ServerInfo
	silent bool     // the first answer owed is nothing of the case's
	seen   []string // what came while the case was still being played
	// lastPong: of pongs side by side only the last is written down.
	lastPong bool
}

func (s *wsScript) write(b []byte) {
	size := len(b)
	if s.chop > 0 {
		size = s.chop
	}
	for piece := range slices.Chunk(b, size) {
		s.tryWrite(piece)
	}
}

func (s *wsScript) frames(frames ...wsFrame) {
	var all []byte
	for _, f := range frames {
		if s.chop < 0 {
			s.tryWrite(f.bytes())
		} else {
			all = append(all, f.bytes()...)
		}
	}
	if len(all) > 0 {
		s.write(all)
	}
}

func (s *wsScript) ping(payload string) { s.write(wsPing(payload)) }

func (s *wsScript) message(size int) { s.frames(wsFrame{opcode: opBinary, payload: s.data(size)}) }

// fragments sends bytes as one message in fragments of this size.
func (s *wsScript) fragments(b []byte, size int) {
	s.frames(wsFragmented(b, size)...)
}

func wsFragmented(b []byte, size int) (frames []wsFrame) {
	for piece := range slices.Chunk(b, size) {
		frames = append(frames, wsFrame{payload: piece, more: true})
	}
	frames[0].opcode, frames[len(frames)-1].more = opBinary, false
	return frames
}

// data is one frame of DERP that is answered: a packet to ourselves of this size with everything around it, and before the
// login ClientInfo, which is never smaller than about 110 bytes.
func (s *wsScript) data(size int) []byte {
	if !s.loggedIn && len(s.owed) == 0 {
		s.owed = append(s.owed, nil)
		return s.clientInfo(size)
	}
	data := packet(7, uint64(len(s.owed)), max(16, size-derp.FrameHeaderLen-derp.KeyLen))
	s.owed = append(s.owed, data)
	return frame(derp.FrameSendPacket, s.public.AppendTo(nil), data)
}

// await plays on when something has come.
func (s *wsScript) await() { s.seen = append(s.seen, s.event().String()) }

// events is what comes until the connection has ended or has shown that it lives.
func (s *wsScript) events() []string {
	s.t.Helper()
	events := s.seen
	for {
		e := s.event()
		if last := len(events) - 1; s.lastPong && e.opcode == opPong && last >= 0 && strings.HasPrefix(events[last], "pong") {
			events = events[:last]
		}
		switch {
		case e.opcode == opBinary && !e.ended && len(s.owed) == 0 && bytes.Equal(e.payload, append(s.public.AppendTo(nil), lastWords...)):
			return append(events, "alive")
		case e.opcode == opBinary && !e.ended:
			if s.answered(e); !s.silent {
				events = append(events, "echo")
			}
			s.silent = false
		default:
			events = append(events, e.String())
		}
		if e.opcode == opClose {
			s.tryWrite(wsFrame{opcode: opClose, payload: e.payload}.bytes())
		}
		if e.ended {
			return events
		}
	}
}

// answered insists that the relay owed us this.
func (s *wsScript) answered(e event) {
	s.t.Helper()
	if len(s.owed) == 0 {
		s.t.Fatalf("got %v, for which nobody asked", e)
	}
	data := s.owed[0]
	s.owed = s.owed[1:]
	switch {
	case data == nil && e.kind == derp.FrameServerInfo:
		s.wantServerInfo(e.payload)
	case data != nil && e.kind == derp.FrameRecvPacket:
		if want := append(s.public.AppendTo(nil), data...); !bytes.Equal(e.payload, want) {
			s.t.Fatalf("got other bytes than were sent: %s", difference(e.payload, want))
		}
	default:
		s.t.Fatalf("got %v in answer to %d bytes", e, len(data))
	}
}

func wsMessages() (cases []wsCase) {
	for n, size := range []int{125, 126, 127, 128, 255, 32768, 65535, 65536, 65536 + 37} {
		c := wsCase{
			autobahn: fmt.Sprintf("1.2.%d", n+2), section: "5.2", about: fmt.Sprintf("a message of %d bytes", size), want: echoed,
			send: func(s *wsScript) { s.message(size) },
		}
		if size > 32768 {
			c.differs, c.derper = smallOnes, tooBig
		}
		cases = append(cases, c)
	}
	text := func(number, about, payload string) wsCase {
		return wsCase{autobahn: number, section: "5.6", about: about, want: notTaken, send: func(s *wsScript) {
			s.frames(wsFrame{opcode: opText, payload: []byte(payload)})
		}}
	}
	return append(cases,
		text("1.1.1", "a text of no bytes", ""),
		text("1.1.2", "a text", "Hello, world!"),
		text("6.3.1", "a text that is not UTF-8", "\xce\xba\xed\xa0\x80"),
		wsCase{autobahn: "1.2.1", section: "5.2", about: "a message of no bytes", want: alive, send: func(s *wsScript) {
			s.frames(wsFrame{opcode: opBinary})
		}},
		wsCase{autobahn: "1.2.8", section: "5.2", about: "a message in pieces of 997 bytes", want: echoed, send: func(s *wsScript) {
			s.chop = 997
			s.message(32768)
		}},
		wsCase{section: "5.3", about: "a mask of zeros", want: echoed, send: func(s *wsScript) {
			s.frames(wsFrame{opcode: opBinary, payload: s.data(200), zero: true})
		}},
		wsCase{section: "5.1", about: "a message without a mask", want: violatedAmidst, send: func(s *wsScript) {
			s.frames(wsFrame{opcode: opBinary, payload: s.data(200), bare: true})
		}, differs: politely, derper: closed},
		wsCase{section: "5.1", about: "a ping without a mask", want: violated, send: func(s *wsScript) {
			s.frames(wsFrame{opcode: opPing, bare: true})
		}, differs: politely, derper: closed},
		wsCase{section: "5.2", about: "200 bytes whose length takes 64 bits", want: longForm, send: func(s *wsScript) {
			s.frames(wsFrame{opcode: opBinary, payload: s.data(200), form: 64})
		}},
		wsCase{section: "5.2", about: "a length with its highest bit set", want: []string{violated[0], tooBig[0]}, send: func(s *wsScript) {
			s.frames(wsFrame{opcode: opBinary, claims: 1<<63 + 5})
		}, differs: politely, derper: closed},
	)
}

func wsPings() []wsCase {
	full := strings.Repeat("\xfe", 125)
	pong := func(payload string) []string { return []string{fmt.Sprintf("pong(%s) alive", short([]byte(payload)))} }
	answered := func(number, about, payload string, chop int) wsCase {
		return wsCase{autobahn: number, section: "5.5.2", about: about, want: pong(payload), send: func(s *wsScript) {
			s.chop = chop
			s.ping(payload)
		}}
	}
	// Only the most recent has to be answered, which Autobahn says too.
	tenfold := func(number, about string, chop int) wsCase {
		return wsCase{autobahn: number, section: "5.5.3", about: about, want: pong("payload-9"), send: func(s *wsScript) {
			s.chop, s.lastPong = chop, true
			for n := range 10 {
				s.ping(fmt.Sprintf("payload-%d", n))
			}
		}}
	}
	return []wsCase{
		answered("2.1", "a ping of no bytes", "", 0),
		answered("2.2", "a ping with text", "Hello, world!", 0),
		answered("2.3", "a ping that is not UTF-8", "\x00\xff\xfe\xfd\xfc\xfb\x00\xff", 0),
		answered("2.4", "a ping of 125 bytes", full, 0),
		answered("2.6", "a ping of 125 bytes, byte by byte", full, 1),
		tenfold("2.10", "ten pings", 0),
		tenfold("2.11", "ten pings, byte by byte", 1),
		{autobahn: "2.5", section: "5.5", about: "a ping of 126 bytes", want: violatedAmidst, send: func(s *wsScript) {
			s.ping(full + ".")
		}},
		{autobahn: "2.7", section: "5.5.3", about: "a pong that nobody asked for", want: alive, send: func(s *wsScript) {
			s.write(wsPong(""))
		}},
		{autobahn: "2.8", section: "5.5.3", about: "one with a payload", want: alive, send: func(s *wsScript) {
			s.write(wsPong("unsolicited"))
		}},
		{autobahn: "2.9", section: "5.5.3", about: "one, and a ping", want: pong("ping payload"), send: func(s *wsScript) {
			s.write(wsPong("unsolicited"))
			s.ping("ping payload")
		}},
		{section: "5.5", about: "a pong of 126 bytes", want: violatedAmidst, send: func(s *wsScript) { s.write(wsPong(full + ".")) }},
		{section: "5.5", about: "a ping that claims 2^62 bytes", want: violated, send: func(s *wsScript) {
			s.frames(wsFrame{opcode: opPing, claims: 1 << 62})
		}},
		{section: "5.5", about: "a ping whose length takes 16 bits", want: violatedAmidst, send: func(s *wsScript) {
			s.frames(wsFrame{opcode: opPing, payload: []byte("short"), form: 16})
		}, differs: longForms, derper: []string{"pong(short) alive"}},
	}
}

func wsReserved() (cases []wsCase) {
	// What comes behind the violation is on its way when the relay hangs up.
	afterEcho := []string{"echo close(1002) end", "echo end", "close(1002) end", "end"}
	for rsv := byte(1); rsv <= 7; rsv++ {
		for _, opcode := range []byte{opBinary, opPing, opPong, opClose} {
			cases = append(cases, wsCase{
				autobahn: fmt.Sprintf("3.%d", rsv), section: "5.2", about: fmt.Sprintf("reserved bits %03b with opcode %d", rsv, opcode),
				want: violated, send: func(s *wsScript) { s.frames(wsFrame{opcode: opcode, rsv: rsv}) },
			})
		}
	}
	for _, opcode := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		number := fmt.Sprintf("4.1.%d", opcode-2)
		if opcode > opClose {
			number = fmt.Sprintf("4.2.%d", opcode-10)
		}
		cases = append(cases, wsCase{
			autobahn: number, section: "5.2", about: fmt.Sprintf("opcode %d", opcode), want: violated,
			send: func(s *wsScript) { s.frames(wsFrame{opcode: opcode}) },
		}, wsCase{
			autobahn: number, section: "5.2", about: fmt.Sprintf("a message, opcode %d with a payload, a ping", opcode), want: afterEcho,
			send: func(s *wsScript) {
				s.message(150)
				s.frames(wsFrame{opcode: opcode, payload: []byte("a payload")}, wsFrame{opcode: opPing})
			},
		})
	}
	return append(cases, wsCase{
		autobahn: "3.4", section: "5.2", about: "a message, one with reserved bits, a ping, byte by byte", want: afterEcho,
		send: func(s *wsScript) {
			s.chop = 1
			s.message(150)
			s.frames(wsFrame{opcode: opBinary, payload: []byte("never read"), rsv: 4}, wsFrame{opcode: opPing})
		},
	})
}

func wsFragments() (cases []wsCase) {
	for n, opcode := range []byte{opPing, opPong, opClose} {
		cases = append(cases, wsCase{
			autobahn: fmt.Sprintf("5.%d", n+1), section: "5.5", about: fmt.Sprintf("opcode %d in two fragments", opcode), want: violatedAmidst,
			send: func(s *wsScript) {
				s.frames(wsFrame{opcode: opcode, more: true, payload: []byte("\x03\xe8fr")}, wsFrame{payload: []byte("ag")})
			},
		})
	}
	// Autobahn sends all at once, frame by frame, and byte by byte.
	for n, chop := range []int{0, -1, 1} {
		add := func(first int, about string, want []string, send func(*wsScript)) {
			cases = append(cases, wsCase{
				autobahn: fmt.Sprintf("5.%d", first+n), section: "5.4", want: want,
				about: about + [...]string{"", ", frame by frame", ", byte by byte"}[n],
				send: func(s *wsScript) {
					s.chop = chop
					send(s)
				},
			})
		}
		add(3, "a message in two fragments", echoed, func(s *wsScript) { s.fragments(s.data(150), 80) })
		add(6, "a ping between two fragments", []string{"pong(between) echo alive"}, func(s *wsScript) {
			two := wsFragmented(s.data(150), 80)
			s.frames(two[0], wsFrame{opcode: opPing, payload: []byte("between")}, two[1])
		})
		add(9, "the end of a message that never began", violatedAmidst, func(s *wsScript) {
			s.frames(wsFrame{payload: []byte("nothing to continue")})
		})
		add(12, "the middle of a message that never began", violatedAmidst, func(s *wsScript) {
			s.frames(wsFrame{payload: []byte("nothing to continue"), more: true})
		})
	}
	add := func(number, about string, want []string, send func(*wsScript)) {
		cases = append(cases, wsCase{autobahn: number, section: "5.4", about: about, want: want, send: send})
	}
	add("5.15", "a message in two fragments, and a third behind its end",
		[]string{"echo close(1002) end", "close(1002) end"}, func(s *wsScript) {
			s.fragments(s.data(150), 80)
			s.frames(wsFrame{more: true})
		})
	add("5.18", "two first fragments", violated, func(s *wsScript) {
		s.frames(wsFrame{opcode: opBinary, more: true}, wsFrame{opcode: opBinary})
	})
	add("", "a text inside of a message", violated, func(s *wsScript) {
		s.frames(wsFrame{opcode: opBinary, more: true}, wsFrame{opcode: opText})
	})
	add("", "a text in two fragments", []string{"close(1003) end", "end"}, func(s *wsScript) {
		s.frames(wsFrame{opcode: opText, payload: []byte("Hello"), more: true}, wsFrame{payload: []byte("world")})
	})
	add("5.19", "pings between many fragments", []string{"pong(first) pong(second) echo alive"}, func(s *wsScript) {
		parts := wsFragmented(s.data(150), 32)
		s.frames(parts[0], parts[1], wsFrame{opcode: opPing, payload: []byte("first")})
		s.await()
		s.frames(parts[2], wsFrame{opcode: opPing, payload: []byte("second")})
		s.frames(parts[3:]...)
	})
	add("", "fragments of no bytes before, between and behind others", echoed, func(s *wsScript) {
		two := wsFragmented(s.data(150), 80)
		two[0].opcode, two[1].more = opContinuation, true
		s.frames(wsFrame{opcode: opBinary, more: true}, wsFrame{more: true}, two[0], wsFrame{more: true}, two[1], wsFrame{})
	})
	add("", "a fragment for each byte", echoed, func(s *wsScript) { s.fragments(s.data(1000), 1) })
	add("", "a fragment for each byte, each on its own", echoed, func(s *wsScript) {
		s.chop = -1
		s.fragments(s.data(1000), 1)
	})
	return cases
}

func wsClosings() (cases []wsCase) {
	add := func(number, about string, want []string, send func(*wsScript)) {
		cases = append(cases, wsCase{autobahn: number, section: "5.5.1, 7", about: about, want: want, send: send})
	}
	end := func(payload string) func(*wsScript) {
		return func(s *wsScript) { s.frames(wsFrame{opcode: opClose, payload: []byte(payload)}) }
	}
	normal := wsFrame{opcode: opClose, payload: []byte("\x03\xe8")}
	// What was sent before is either answered or lost with the rest.
	add("7.1.1", "a message, then a Close", []string{"echo close(1000) end", "close(1000) end"}, func(s *wsScript) {
		s.message(150)
		s.frames(normal)
	})
	add("7.1.2", "two Closes", closed, func(s *wsScript) { s.frames(normal, normal) })
	add("7.1.3", "a ping behind a Close", closed, func(s *wsScript) { s.frames(normal, wsFrame{opcode: opPing}) })
	add("7.1.4", "a message behind a Close", closed, func(s *wsScript) {
		s.frames(normal, wsFrame{opcode: opBinary, payload: s.data(150)})
	})
	add("7.1.5", "a Close amidst a message", closed, func(s *wsScript) {
		two := wsFragmented(s.data(150), 80)
		s.frames(two[0], normal, two[1])
	})
	add("7.3.1", "a Close without a code", []string{"close() end", "close(1000) end"}, end(""))
	add("7.3.2", "a Close of one byte", violated, end("a"))
	add("7.3.4", "a Close with a reason", closed, end("\x03\xe8Hello World!"))
	add("7.3.5", "a Close with a reason of 123 bytes", closed, end("\x03\xe8"+strings.Repeat("*", 123)))
	cases = append(cases, wsCase{
		autobahn: "7.5.1", section: "5.5.1, 8.1", about: "a Close with a reason that is not UTF-8",
		want: []string{"close(1007) end", "close(1002) end"}, send: end("\x03\xe8\xce\xba\xed\xa0\x80"),
		differs: politely, derper: closed,
	})
	add("7.3.6", "a Close with a reason of 124 bytes", violatedAmidst, end("\x03\xe8"+strings.Repeat("*", 124)))
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		add("7.7", fmt.Sprintf("a Close with code %d", code), []string{fmt.Sprintf("close(%d) end", code), "close(1000) end"},
			func(s *wsScript) { s.write(wsCloseFrame(code, "")) })
	}
	for _, code := range []int{0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		add("7.9", fmt.Sprintf("a Close with code %d", code), violated, end(string([]byte{byte(code >> 8), byte(code)})))
	}
	return cases
}

func wsLimits() (cases []wsCase) {
	for n, size := range []int{64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10} {
		cases = append(cases, wsCase{
			autobahn: fmt.Sprintf("9.4.%d", n+1), section: "5.4", about: fmt.Sprintf("60000 bytes in fragments of %d", size), want: echoed,
			send:    func(s *wsScript) { s.fragments(s.data(60000), size) },
			differs: smallOnes, derper: tooBig,
		})
	}
	add := func(about string, want []string, differs string, derper []string, send func(*wsScript)) {
		cases = append(cases, wsCase{
			section: "7.4.1", about: about, want: want, differs: differs, derper: derper, send: send, clientOnly: true,
		})
	}
	add("a message of 128 KiB", echoed, smallOnes, tooBig, func(s *wsScript) {
		s.frames(wsFrame{opcode: opBinary, payload: s.padded(wsLimit)})
	})
	add("a message of 128 KiB in fragments", echoed, smallOnes, tooBig, func(s *wsScript) { s.fragments(s.padded(wsLimit), 10000) })
	add("a message of a byte more than 128 KiB", tooBigAmidst, "", nil, func(s *wsScript) {
		s.frames(wsFrame{opcode: opBinary, payload: s.padded(wsLimit + 1)})
	})
	add("a message that claims a byte more", tooBig, waits, nil, func(s *wsScript) {
		s.frames(wsFrame{opcode: opBinary, claims: wsLimit + 1})
	})
	add("a message that claims 2^62 bytes", tooBig, waits, nil, func(s *wsScript) {
		s.frames(wsFrame{opcode: opBinary, claims: 1 << 62})
	})
	add("fragments that claim a byte more together", []string{"echo close(1009) end", "close(1009) end"}, smallOnes, tooBig, func(s *wsScript) {
		all := wsFragmented(s.padded(wsLimit), 32<<10)
		all[len(all)-1].more = true
		s.frames(append(all, wsFrame{claims: 1})...)
	})
	add("fragments whose sizes overflow together", tooBig, waits, nil, func(s *wsScript) {
		s.frames(wsFrame{opcode: opBinary, payload: []byte{0x77}, more: true}, wsFrame{claims: 1<<63 - 1})
	})
	return cases
}

// padded is an unknown frame, which everybody skips, and an answered one, of this size together.
func (s *wsScript) padded(size int) []byte {
	const answered = 1000
	skipped := size - answered - derp.FrameHeaderLen
	return slices.Concat(frameHeader(0x77, uint32(skipped)), make([]byte, skipped), s.data(answered))
}
