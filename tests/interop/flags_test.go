package interop

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"
)

// TestFlags: the usage of this relay under derper's command line has derper's flags, with their types and defaults. The
// help texts are our own words.
func TestFlags(t *testing.T) {
	reference, err := derperBinary()
	if err != nil {
		t.Fatal(err)
	}
	// derper's defaults name its user's directories.
	env := []string{"HOME=/nowhere/home", "PATH=" + os.Getenv("PATH")}
	want := usageOf(t, env, reference, "-h")
	command := []string{"derper", "-h"}
	if testingReference() {
		command = command[1:]
	}
	got := usageOf(t, env, settings.relay, command...)
	// Go takes what a help text has between backquotes for the type, and derper's has an example there.
	for _, flags := range []map[string]string{want, got} {
		if flags["unpublished-bootstrap-dns-names"] == "0" {
			flags["unpublished-bootstrap-dns-names"] = "string"
		}
	}
	if len(want) < 30 {
		t.Fatalf("derper has only %d flags in its usage", len(want))
	}
	for _, name := range names(want, got) {
		if got[name] != want[name] {
			t.Errorf("-%s is %q; derper's is %q", name, got[name], want[name])
		}
	}
}

// TestStatusOfUsage: what a shell is told about a command line is the same.
func TestStatusOfUsage(t *testing.T) {
	reference, err := derperBinary()
	if err != nil {
		t.Fatal(err)
	}
	key := "-c=" + filepath.Join(t.TempDir(), "derper.key")
	for _, args := range [][]string{
		{"-h"}, {"-help"}, {"--help"}, {"-version"}, {"--version=true"}, {"-nosuch"}, {"-a"}, {"-stun=perhaps"},
		{"-stun-port=many"}, {"-tcp-write-timeout=2"}, {"---a"}, {"-=a"},
		{"-a=:0", "-c="}, {"-dev", "-mesh-psk-file=/nowhere/key", "-mesh-with=a.example"},
		{"-a=127.0.0.1:443", key, "-certmode=nosuch"},
		{"-a=127.0.0.1:0", key, "-mesh-psk-file=/nowhere/key"},
	} {
		if strings.Join(args, " ") == "-a=:0 -c=" && os.Geteuid() == 0 {
			continue // root has a default
		}
		want, _ := statusOf(t, reference, args...)
		command := args
		if !testingReference() {
			command = append([]string{"derper"}, args...)
		}
		if got, text := statusOf(t, settings.relay, command...); got != want {
			t.Errorf("%q ends with status %d; derper with %d: %s", args, got, want, text)
		}
	}
}

func statusOf(t *testing.T, binary string, args ...string) (int, string) {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = []string{"HOME=/nowhere/home"}
	out, err := cmd.CombinedOutput()
	if _, ended := err.(*exec.ExitError); err != nil && !ended {
		t.Fatalf("%s %q: %v", binary, args, err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

var (
	usageFlag    = regexp.MustCompile(`^  -(\S+)(?: (\w+))?(?:\t.*)?$`)
	usageDefault = regexp.MustCompile(`\(default (.*)\)$`)
)

// usageOf is type and default of every flag that a usage text names.
func usageOf(t *testing.T, env []string, binary string, args ...string) map[string]string {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = env
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s", binary, args, err, text.String())
	}
	flags := make(map[string]string)
	last := ""
	for _, line := range strings.Split(text.String(), "\n") {
		if m := usageFlag.FindStringSubmatch(line); m != nil {
			last = m[1]
			flags[last] = m[2]
		}
		if m := usageDefault.FindStringSubmatch(line); m != nil && last != "" {
			flags[last] += " = " + m[1]
		}
	}
	return flags
}

func names(maps ...map[string]string) []string {
	seen := make(map[string]bool)
	for _, m := range maps {
		for name := range m {
			seen[name] = true
		}
	}
	var out []string
	for name := range seen {
		out = append(out, name)
	}
	sort.Strings(out)
	return out
}
