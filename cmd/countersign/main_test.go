package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/countersign/countersign/internal/storage/storagetest"
)

// The scripts in testdata/script show what a person sees. Each runs in a
// directory and home of its own with the real binary as `countersign`.
//
// These commands are added to testscript's own:
//
//	up [FLAGS]                 start a server in the background on a free port
//	                           and wait until it is ready; sets URL; it is
//	                           stopped at the end
//	down                       stop it now (up starts it again on the same data)
//	part VAR NAME [ARGUMENT]   start a server of the example business and set
//	                           VAR to its address
//	capture VAR FILE REGEXP    set VAR to what the first group matches in FILE
//	                           (or stdout, stderr)
//	eventually REGEXP PROGRAM ARGUMENT...
//	                           run a program until it says what is awaited
//	post PATH TOKEN FILE       send a file as JSON to $URL and print status and
//	                           answer; with ! it must be refused. It is part of
//	                           the MCP session $SESSION if there is one
//
//	federate VAR CA SUBJECT    start an OpenID issuer that signs tokens about
//	                           SUBJECT; sets VAR to its URL and writes its
//	                           authority's certificate to the file CA
//
//	provide VAR CA             start an OpenID provider for people, likewise
//
//	enrolling VAR COMMAND...   start countersign run in the background, and set
//	                           VAR to the enrolment code that it shows
//	enrolled                   wait until it has ended well; its output is stdout
//
// and the programs says ISSUER NAME=VALUE..., which tells that provider who
// signs in; browser URL, which goes where it is sent (the authority is in
// $SSL_CERT_FILE); and toolbox, an MCP server over stdio whose one tool has the
// description that the file $TOOLBOX holds.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"countersign": func() { os.Exit(run()) }, "toolbox": toolbox, "issuer": issuer, "idp": provider, "says": says, "browser": browser})
}

func TestScripts(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		scripts(t, func(env *testscript.Env) error {
			switch filepath.Base(env.WorkDir) {
			case "script-first", "script-example", "script-secret": // they begin with nothing, or search all that the server wrote
			default:
				env.Setenv("COUNTERSIGN_STORE", storagetest.SQLite(env.T().(testing.TB)))
			}
			return nil
		})
	})
	if os.Getenv(storagetest.Env) == "" {
		return
	}
	t.Run("postgres", func(t *testing.T) {
		scripts(t, func(env *testscript.Env) error {
			env.Setenv("COUNTERSIGN_STORE", storagetest.Postgres(env.T().(testing.TB)))
			return nil
		})
	})
}

func scripts(t *testing.T, store func(*testscript.Env) error) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			home := env.WorkDir + "/home"
			env.Setenv("HOME", home)
			env.Setenv("XDG_CONFIG_HOME", home+"/.config")
			env.Setenv("NO_COLOR", "1")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // the race detector sleeps a second at every exit
			if err := os.MkdirAll(home, 0o700); err != nil {
				return err
			}
			env.Values[serverKey{}] = &running{}
			env.Values[enrolKey{}], env.Values[browserKey{}] = &enrolment{}, browsers{}
			return store(env)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"up": up, "down": down, "part": part, "capture": capture, "eventually": eventually, "flip": flip, "post": post, "federate": federate, "provide": provide, "enrolling": enrolling, "enrolled": enrolled, "passkey": withPasskey},
	})
}

// running is the server of a script.
type running struct {
	cmd *exec.Cmd
	out *bytes.Buffer // standard error
}

type serverKey struct{}

func up(ts *testscript.TestScript, neg bool, args []string) {
	r := ts.Value(serverKey{}).(*running)
	if neg || r.cmd != nil {
		ts.Fatalf("usage: up [FLAGS] (one server at a time)")
	}
	cmd := exec.Command("countersign", append([]string{"up", "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Path = findBinary(ts)
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = environ(ts)
	r.out = &bytes.Buffer{}
	cmd.Stderr = r.out
	stdout, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	r.cmd = cmd
	ts.Defer(func() { r.stop(ts, false) })
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		ts.Logf("[up] %s", lines.Text())
		if _, url, ok := strings.Cut(lines.Text(), " is up at "); ok {
			ts.Setenv("URL", url)
			go io.Copy(io.Discard, stdout)
			return
		}
	}
	cmd.Wait()
	r.cmd = nil
	ts.Fatalf("the server did not start:\n%s", r.out)
}

func down(ts *testscript.TestScript, neg bool, args []string) {
	ts.Value(serverKey{}).(*running).stop(ts, true)
}

func (r *running) stop(ts *testscript.TestScript, must bool) {
	if r.cmd == nil {
		return
	}
	cmd := r.cmd
	r.cmd = nil
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		cmd.Process.Kill()
	}
	timer := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	timer.Stop()
	ts.Logf("[up] stopped: %v\n%s", err, r.out)
	if must && err != nil {
		ts.Fatalf("the server did not stop cleanly: %v", err)
	}
}

func findBinary(ts *testscript.TestScript) string {
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		p := filepath.Join(dir, "countersign")
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	ts.Fatalf("no countersign in PATH")
	return ""
}

// environ is the script's environment.
func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{"COUNTERSIGN_OIDC_ISSUER", "COUNTERSIGN_OIDC_CLIENT_ID", "COUNTERSIGN_OIDC_CLIENT_SECRET", "COUNTERSIGN_OIDC_CA", "COUNTERSIGN_OIDC_JOIN", "COUNTERSIGN_OIDC_DOMAINS",
		"COUNTERSIGN_OIDC_ROLES", "COUNTERSIGN_OIDC_CHECK_EVERY", "COUNTERSIGN_LIFECYCLE_IDLE_AFTER", "COUNTERSIGN_LIFECYCLE_GRACE", "IDP_SECRET", "PATH", "HOME", "TMPDIR", "XDG_CONFIG_HOME", "NO_COLOR", "GORACE", "COUNTERSIGN_STORE", "SSL_CERT_FILE", "HELPDESK_TOKEN", "MODEL_KEY"} {
		if v := ts.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}
