package interop

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// numbers are counters and gauges by a name that is the same wherever they were read: that of derper's expvar, without
// "derp", "gauge" and "counter", and with label values behind slashes ("packets_dropped/unknown_dest/disco").
type numbers map[string]float64

// A meter reads one relay's numbers from every page that has them, and knows what they should be.
type meter struct {
	t     testing.TB
	relay *relay
	pages []page
	// want is what has happened since the relay started. A name that is not in it is zero, so nothing may move unexpectedly.
	want numbers
	// forwardedBytes is the payload of what mesh peers forwarded, which neither relay counts.
	forwardedBytes float64
}

// A page is one way to ask. Not each has every number.
type page struct {
	name string
	url  string
	http *http.Client
	read func(io.Reader) (pageNumbers, error)
	has  func(name string) bool
}

type pageNumbers struct {
	known numbers
	own   numbers // derpring's own series under their full names, summed over workers and edges
}

// Depend on the clock, the machine or how much was written at a time.
var unpredictable = []string{
	"average_queue_duration_ms", "buffered_write_frames", "current_file_descriptors", "memstats_sys0", "mesh_update_batch_size",
	"mesh_update_loop_count", "tcp_rtt", "version",
}

// startMetered runs a relay of its own for a test that counts, with both relays under derper's command line.
func startMetered(t *testing.T, tr transport, flags ...string) (*relay, *meter) {
	t.Helper()
	spec := relaySpec{tls: tr.tls, asDerper: true, flags: flags}
	if !testingReference() {
		// Not t.TempDir, whose names are long: the address of a unix socket has 107 bytes.
		spec.adminSocket = filepath.Join(scratch.dir, fmt.Sprintf("admin-%d", time.Now().UnixNano()))
	}
	r := startRelay(t, spec)
	m := &meter{t: t, relay: r, want: numbers{}}
	overTCP := httpClient(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", r.addr())
	})
	m.pages = []page{
		{"/debug/vars", r.url("/debug/vars"), overTCP, readVars, varsHas},
		{"/debug/varz", r.url("/debug/varz"), overTCP, readVarz, varzHas},
	}
	if spec.adminSocket != "" {
		overUnix := httpClient(func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", spec.adminSocket)
		})
		m.pages = append(m.pages, page{"/metrics", "http://relay/metrics", overUnix, readMetrics, metricsHas})
	}
	m.expect("nothing has happened", nil)
	return r, m
}

// Connections are not kept, so that a relay's own bounds on idle ones do not meet a slow machine.
func httpClient(dial func(context.Context) (net.Conn, error)) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: scratch.pki.roots, ServerName: relayHost},
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}
}

// ours is a number that only derpring counts.
func ours(n float64) float64 {
	if testingReference() {
		return 0
	}
	return n
}

// expect adds what a step must have changed, and waits until every page says exactly that.
func (m *meter) expect(step string, changes numbers) {
	m.t.Helper()
	for name, change := range changes {
		m.want[name] += change
	}
	m.observe(step, nil, nil)
}

// observe waits until every page says what is wanted, but for the open names, which need only be the same everywhere, balance,
// and satisfy the test. What is found there is wanted from then on.
func (m *meter) observe(step string, open []string, fits func(now numbers) error) {
	m.t.Helper()
	m.await(step, open, true, fits)
}

// observeStalled is the same while packets wait in the relay.
func (m *meter) observeStalled(step string, open []string, fits func(now numbers) error) {
	m.t.Helper()
	m.await(step, open, false, fits)
}

func (m *meter) await(step string, open []string, atRest bool, fits func(now numbers) error) {
	m.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		now, own, pages, err := m.look()
		if err != nil {
			m.t.Fatalf("%s: %v", step, err)
		}
		want := maps.Clone(m.want)
		for _, name := range open {
			want[name] = now[name]
		}
		complaints := []error{m.balance(now, own, atRest)}
		for i, p := range m.pages {
			complaints = append(complaints, p.compare(pages[i], withSums(want)))
		}
		if fits != nil {
			complaints = append(complaints, fits(now))
		}
		wrong := errors.Join(complaints...)
		if wrong == nil {
			m.want = want
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s: the relay's numbers are not what they should be:\n%v", step, wrong)
		}
		time.Sleep(10 * time.Millisecond) // counters announce nothing
	}
}

// look asks for all pages once: what derper has, derpring's own, and page by page.
func (m *meter) look() (now, own numbers, pages []numbers, err error) {
	now, own = numbers{}, numbers{}
	for _, p := range m.pages {
		read, err := p.fetch()
		if err != nil {
			return nil, nil, nil, fmt.Errorf("%s: %w", p.name, err)
		}
		maps.Copy(now, read.known)
		maps.Copy(own, read.own)
		pages = append(pages, read.known)
	}
	return now, own, pages, nil
}

func (p page) fetch() (pageNumbers, error) {
	resp, err := p.http.Get(p.url)
	if err != nil {
		return pageNumbers{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return pageNumbers{}, errors.New(resp.Status)
	}
	return p.read(resp.Body)
}

// compare lists the numbers of a page that are not as wanted, or that it should have.
func (p page) compare(got, want numbers) error {
	var wrong []error
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if got[name] != want[name] {
			wrong = append(wrong, fmt.Errorf("%s: %s is %v; want %v", p.name, name, got[name], want[name]))
		}
	}
	for name, n := range want {
		if _, found := got[name]; !found && n != 0 && p.has(name) {
			wrong = append(wrong, fmt.Errorf("%s: there is no %s; want %v", p.name, name, n))
		}
	}
	return errors.Join(wrong...)
}

// balance: what came in has gone out, was dropped for one reason, or waits. Sessions and routes add up, too.
func (m *meter) balance(now, own numbers, atRest bool) error {
	waiting, waitingBytes := own["derpring_worker_queued_packets"], own["derpring_worker_queued_bytes"]
	var wrong []error
	equal := func(what string, left, right float64) {
		if left != right {
			wrong = append(wrong, fmt.Errorf("%s: %v and %v", what, left, right))
		}
	}
	if atRest || !testingReference() { // derper does not say what waits
		equal("packets that came in, and those that left or were dropped or wait",
			now["packets_received"]+now["packets_forwarded_in"],
			now["packets_sent"]+now["packets_forwarded_out"]+sum(now, "packets_dropped/")+waiting)
		equal("bytes that came in, and those that left or were dropped or wait",
			now["bytes_received"]+m.forwardedBytes, now["bytes_sent"]+sum(now, "bytes_dropped/")+waitingBytes)
	}
	if atRest {
		equal("packets and bytes that wait though all is quiet", waiting+waitingBytes, 0)
	}
	if testingReference() {
		return errors.Join(wrong...)
	}
	equal("logins without those that have ended, and connections",
		own["derpring_edge_logins_total/ok"]-sum(own, "derpring_sessions_ended_total/"), now["current_connections"])
	equal("sessions of workers, and connections", own["derpring_worker_sessions"], now["current_connections"])
	unknown := sum(now, "packets_dropped/unknown_dest/") + sum(now, "packets_dropped/unknown_dest_on_fwd/")
	equal("packets that came in for somebody, and those that were routed",
		now["packets_received"]+now["packets_forwarded_in"]-unknown, sum(own, "derpring_worker_packets_routed_total/"))
	equal("packets to and from other workers", own["derpring_worker_packets_routed_total/worker"],
		own["derpring_worker_packets_from_workers_total"]+own["derpring_worker_outbox_dropped_packets_total"])
	return errors.Join(wrong...)
}

func sum(n numbers, prefix string) (total float64) {
	for name, value := range n {
		if strings.HasPrefix(name, prefix) {
			total += value
		}
	}
	return total
}

// withSums adds what Coder's relay counts beside derper's packets_dropped.
func withSums(n numbers) numbers {
	all := maps.Clone(n)
	for name, value := range n {
		if rest, ok := strings.CutPrefix(name, "packets_dropped/"); ok {
			reason, kind, _ := strings.Cut(rest, "/")
			all["packets_dropped"] += value
			all["packets_dropped_reason/"+reason] += value
			all["packets_dropped_type/"+kind] += value
		}
	}
	return all
}

func (n numbers) put(name string, value float64) {
	first, _, _ := strings.Cut(name, "/")
	if !slices.Contains(unpredictable, first) {
		n[name] = value
	}
}

func bare(name string) string {
	for _, prefix := range []string{"derp_", "gauge_", "counter_"} {
		name = strings.TrimPrefix(name, prefix)
	}
	return name
}

// readVars reads expvar's JSON.
func readVars(body io.Reader) (pageNumbers, error) {
	var all map[string]any
	if err := json.NewDecoder(body).Decode(&all); err != nil {
		return pageNumbers{}, err
	}
	derp, ok := all["derp"].(map[string]any)
	if !ok {
		return pageNumbers{}, errors.New(`there is no "derp"`)
	}
	known := numbers{}
	var take func(name string, value any)
	take = func(name string, value any) {
		switch value := value.(type) {
		case float64:
			known.put(name, value)
		case map[string]any:
			for label, value := range value {
				take(name+"/"+label, value)
			}
		}
	}
	for name, value := range derp {
		take(bare(name), value)
	}
	for name, value := range all {
		if strings.HasPrefix(name, "derp_") {
			take(bare(name), value)
		}
	}
	return pageNumbers{known: known}, nil
}

func varsHas(name string) bool {
	// derper's /debug/vars prints the name of a Go type where these should be, and it has no sums of them.
	return !testingReference() || !strings.HasPrefix(name, "packets_dropped") && !strings.HasPrefix(name, "bytes_dropped")
}

// readVarz reads derper's own text for Prometheus, with Prometheus' parser.
func readVarz(body io.Reader) (pageNumbers, error) {
	known := numbers{}
	err := parse(body, func(name string, labels []string, value float64) {
		if strings.HasPrefix(name, "derp_") {
			known.put(strings.Join(append([]string{bare(name)}, labels...), "/"), value)
		}
	})
	return pageNumbers{known: known}, err
}

func varzHas(name string) bool {
	return name != "packets_dropped" && !strings.HasPrefix(name, "packets_dropped_")
}

// coderNames are those of Coder's series that are not simply derper's.
var coderNames = map[string]string{
	"peer_gone_disconnected": "peer_gone_disconnected_frames",
	"peer_gone_not_here":     "peer_gone_not_here_frames",
	"connections":            "current_connections",
	"home_connections":       "current_home_connections",
	"clients":                "clients_total",
}

// readMetrics reads what Prometheus scrapes, with its parser.
func readMetrics(body io.Reader) (pageNumbers, error) {
	read := pageNumbers{known: numbers{}, own: numbers{}}
	err := parse(body, func(name string, labels []string, value float64) {
		short, coder := strings.CutPrefix(name, "coder_derp_server_")
		if !coder {
			read.own[strings.Join(append([]string{name}, labels...), "/")] += value
			return
		}
		short = strings.TrimSuffix(short, "_total")
		if other, ok := coderNames[short]; ok {
			short = other
		}
		read.known.put(strings.Join(append([]string{short}, labels...), "/"), value)
	})
	return read, err
}

func metricsHas(name string) bool {
	for _, missing := range []string{
		"packets_dropped/", "bytes_dropped/", "current_dup_client_", "total_dup_client_", "current_notideal_", "sclient_write_timeouts",
		"websocket_accepts",
	} {
		if strings.HasPrefix(name, missing) {
			return false
		}
	}
	return true
}

// parse hands over all counters and gauges, and what has no type. Of labels it gives the values, but for those that number
// workers and edges.
func parse(body io.Reader, take func(name string, labels []string, value float64)) error {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(body)
	if err != nil {
		return err
	}
	for name, family := range families {
		for _, metric := range family.Metric {
			var labels []string
			for _, label := range metric.Label {
				if label.GetName() != "worker" && label.GetName() != "edge" {
					labels = append(labels, label.GetValue())
				}
			}
			var value float64
			switch family.GetType() {
			case dto.MetricType_COUNTER:
				value = metric.Counter.GetValue()
			case dto.MetricType_GAUGE:
				value = metric.Gauge.GetValue()
			case dto.MetricType_UNTYPED:
				value = metric.Untyped.GetValue()
			default:
				continue
			}
			take(name, labels, value)
		}
	}
	return nil
}
