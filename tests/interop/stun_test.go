package interop

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"tailscale.com/net/netcheck"
	"tailscale.com/net/netmon"
	"tailscale.com/net/stun"
	"tailscale.com/tailcfg"
)

// startSTUN runs a relay whose STUN server listens on these hosts, and says where that is.
func startSTUN(t *testing.T, any bool, hosts ...string) []netip.AddrPort {
	t.Helper()
	if testingReference() {
		return []netip.AddrPort{startReferenceSTUN(t)}
	}
	spec := relaySpec{stunAny: any}
	for _, host := range hosts {
		spec.stun = append(spec.stun, net.JoinHostPort(host, "0"))
	}
	addrs := stunAddrs(t, startRelay(t, spec))
	if len(addrs) != len(hosts) {
		t.Fatalf("STUN listens on %v; want one address for each of %v", addrs, hosts)
	}
	return addrs
}

var stunLine = regexp.MustCompile(`(?m)^  stun +(\S+) for `)

// stunAddrs reads the start block, which tells the ports that derpring was given. It is written a moment after the relay
// accepts connections, and ends with how many clients may come.
func stunAddrs(t *testing.T, r *relay) []netip.AddrPort {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !strings.Contains(r.log.since(0), "\n  clients ") {
		if time.Now().After(deadline) {
			t.Fatal("the relay does not say what it runs with")
		}
		time.Sleep(5 * time.Millisecond)
	}
	var addrs []netip.AddrPort
	for _, match := range stunLine.FindAllStringSubmatch(r.log.since(0), -1) {
		addr, err := netip.ParseAddrPort(match[1])
		if err != nil {
			t.Fatalf("the start block: %v", err)
		}
		addrs = append(addrs, addr)
	}
	return addrs
}

// startReferenceSTUN runs derper with STUN beside its main listener. It goes on without STUN when the port is taken, which
// is free when it is chosen but held by nobody: then another one is tried.
func startReferenceSTUN(t *testing.T) netip.AddrPort {
	t.Helper()
	for range 3 {
		l, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.LocalAddr().(*net.UDPAddr).AddrPort()
		l.Close()
		r := startRelay(t, relaySpec{flags: []string{"-stun=true", "-stun-port", strconv.Itoa(int(addr.Port()))}})
		listening := regexp.MustCompile(`STUN server listening on ` + regexp.QuoteMeta(addr.String()))
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if listening.MatchString(r.log.since(0)) {
				return addr
			}
		}
		r.kill()
	}
	t.Fatal("derper does not say that it listens for STUN")
	panic("unreachable")
}

// askSTUN sends a request from an address of its own and reads the answer, which must come from who was asked.
func askSTUN(t *testing.T, server netip.AddrPort, request []byte) (answer []byte, local netip.AddrPort) {
	t.Helper()
	network, from := "udp4", "127.0.0.1:0"
	if server.Addr().Is6() {
		network, from = "udp6", "[::1]:0"
	}
	conn, err := net.ListenPacket(network, from)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.WriteTo(request, net.UDPAddrFromAddrPort(server)); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 2000)
	n, sender, err := conn.ReadFrom(buf)
	if err != nil {
		t.Fatalf("no answer from %v: %v", server, err)
	}
	if got := sender.(*net.UDPAddr).AddrPort(); got != server {
		t.Errorf("%v was asked and %v answers", server, got)
	}
	return buf[:n], conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// wantMapped asks as Tailscale's clients do, with their own code.
func wantMapped(t *testing.T, server netip.AddrPort) {
	t.Helper()
	id := stun.NewTxID()
	answer, local := askSTUN(t, server, stun.Request(id))
	got, mapped, err := stun.ParseResponse(answer)
	if err != nil {
		t.Fatalf("%v answers %x: %v", server, answer, err)
	}
	if got != id || mapped != local {
		t.Errorf("%v says that %v is %v", server, local, mapped)
	}
	if want := stun.Response(id, local); string(want) != string(answer) {
		t.Errorf("%v answers %x; want %x", server, answer, want)
	}
}

func hasIPv6() bool {
	conn, err := net.ListenPacket("udp6", "[::1]:0")
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// TestSTUN: Tailscale's client is told its address, byte for byte as its own server would, by each address that listens.
func TestSTUN(t *testing.T) {
	hosts := []string{"127.0.0.1", "127.0.0.2"}
	if hasIPv6() {
		hosts = append(hosts, "::1")
	}
	for _, server := range startSTUN(t, false, hosts...) {
		for range 20 {
			wantMapped(t, server)
		}
	}
}

// TestSTUNWildcard: a server on all addresses answers from the one that was asked, whatever the route prefers, and tells
// IPv4 clients an address of IPv4 though its socket is of both families.
func TestSTUNWildcard(t *testing.T) {
	skipReference(t, "answers from the address that the route prefers, and in family 2 on a socket of both families")
	hosts := []string{"0.0.0.0"}
	asked := []string{"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.9.9.9"}
	for _, server := range startSTUN(t, false, hosts...) {
		for _, host := range asked {
			wantMapped(t, netip.AddrPortFrom(netip.MustParseAddr(host), server.Port()))
		}
	}
	if !hasIPv6() {
		leaveOut(t, "there is no IPv6 here")
	}
	server := startSTUN(t, false, "::")[0]
	for _, host := range append(asked, "::1") {
		wantMapped(t, netip.AddrPortFrom(netip.MustParseAddr(host), server.Port()))
	}
}

// TestSTUNAnyClient: a request of RFC 8489 without what Tailscale puts into it is answered only where that is wanted.
func TestSTUNAnyClient(t *testing.T) {
	bare := append([]byte("\x00\x01\x00\x00\x21\x12\xa4\x42"), "abcdefghijkl"...)
	server := startSTUN(t, false, "127.0.0.1")[0]
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(server))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// What is asked afterwards is answered first, as the first is not answered at all.
	id := stun.NewTxID()
	for _, request := range [][]byte{bare, bare[:19], stun.Request(id)[:39], stun.Request(id)} {
		if _, err := conn.Write(request); err != nil {
			t.Fatal(err)
		}
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 2000)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := stun.ParseResponse(buf[:n]); err != nil || got != id {
		t.Errorf("the first answer is %x, %v; want that to Tailscale's request", buf[:n], err)
	}

	if testingReference() {
		return
	}
	open := startSTUN(t, true, "127.0.0.1")[0]
	wantMapped(t, open)
	answer, local := askSTUN(t, open, bare)
	if want := stun.Response(stun.TxID(bare[8:]), local); string(want) != string(answer) {
		t.Errorf("%v answers %x; want %x", open, answer, want)
	}
}

// TestNetcheck: what Tailscale's clients run every few minutes finds UDP, a home, its own address; and, asking on two
// addresses, that its NAT does not map it by destination.
func TestNetcheck(t *testing.T) {
	dm := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{}}
	for n, server := range startSTUN(t, false, "127.0.0.1", "127.0.0.2") {
		id := 900 + n
		dm.Regions[id] = &tailcfg.DERPRegion{
			RegionID: id, RegionCode: fmt.Sprint("r", id), RegionName: "interop",
			Nodes: []*tailcfg.DERPNode{{
				Name: fmt.Sprint(id, "a"), RegionID: id, HostName: relayHost,
				STUNTestIP: server.Addr().String(), STUNPort: int(server.Port()), STUNOnly: true,
			}},
		}
	}
	client := &netcheck.Client{NetMon: netmon.NewStatic(), Logf: t.Logf, SkipExternalNetwork: true}
	if err := client.Standalone(t.Context(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	// A report takes what comes in time: on a busy machine it may be made again.
	var report *netcheck.Report
	for deadline := time.Now().Add(patience); ; {
		var err error
		report, err = client.GetReport(t.Context(), dm, &netcheck.GetReportOpts{OnlySTUN: true})
		if err != nil {
			t.Fatal(err)
		}
		if report.UDP && len(report.RegionV4Latency) == len(dm.Regions) || time.Now().After(deadline) {
			break
		}
	}
	if !report.UDP || !report.IPv4 || len(report.RegionV4Latency) != len(dm.Regions) || report.PreferredDERP == 0 {
		t.Errorf("the report is %+v; want UDP over IPv4, a latency for each region and a home", report)
	}
	if !report.GlobalV4.Addr().IsLoopback() {
		t.Errorf("the client's own address is %v; want loopback", report.GlobalV4)
	}
	if len(dm.Regions) > 1 && !report.MappingVariesByDestIP.EqualBool(false) {
		t.Errorf("MappingVariesByDestIP is %q; want false", report.MappingVariesByDestIP)
	}
}
