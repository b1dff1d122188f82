package leaktest_test

import (
	"encoding/base64"
	"encoding/hex"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/secrets/leaktest"
)

// recorder is a testing.TB that remembers failures instead of failing.
type recorder struct {
	testing.TB
	failures []string
}

func (r *recorder) Helper() {}
func (r *recorder) Errorf(_ string, args ...any) {
	r.failures = append(r.failures, strings.TrimSpace(strings.Join([]string{args[0].(string)}, "")))
}

const secret = "hunter2 & friends"

var secrets = leaktest.Secrets{"mine": secret}

func TestEveryFormIsFound(t *testing.T) {
	for name, text := range map[string]string{
		"raw": secret, "query": url.QueryEscape(secret), "path": url.PathEscape(secret), "hex": hex.EncodeToString([]byte(secret)),
		"base64 0": base64.StdEncoding.EncodeToString([]byte(secret + "!")), "base64 1": base64.URLEncoding.EncodeToString([]byte("x" + secret)),
		"base64 2": base64.StdEncoding.EncodeToString([]byte("xy" + secret + "zz")),
	} {
		if len(leaktest.Find(secrets, []byte("before "+text+" after"))) == 0 {
			t.Errorf("%s is not found", name)
		}
	}
	if found := leaktest.Find(secrets, []byte("hunter2 and friends")); len(found) > 0 {
		t.Errorf("found %v", found)
	}
}

func TestFilesAndDirectories(t *testing.T) {
	dir := t.TempDir()
	os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700)
	os.WriteFile(filepath.Join(dir, "a", "b", "clean"), []byte("nothing"), 0o600)
	r := &recorder{TB: t}
	if leaktest.Files(r, secrets, dir); len(r.failures) != 0 {
		t.Errorf("failures %v", r.failures)
	}
	os.WriteFile(filepath.Join(dir, "a", "b", "wal"), []byte("x"+secret), 0o600)
	if leaktest.Files(r, secrets, dir); len(r.failures) == 0 {
		t.Error("the secret was not found")
	}
	r.failures = nil
	if leaktest.Files(r, secrets, filepath.Join(dir, "gone")); len(r.failures) == 0 {
		t.Error("a missing path passed")
	}
}

func TestProcesses(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	cmd.Args = []string{"sleep", "60"}
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	r := &recorder{TB: t}
	if leaktest.Processes(r, secrets, cmd.Process.Pid); len(r.failures) != 0 {
		t.Errorf("failures %v", r.failures)
	}
	shown := exec.Command("sh", "-c", "echo ready; read line", secret)
	in, _ := shown.StdinPipe()
	out, _ := shown.StdoutPipe()
	if err := shown.Start(); err != nil {
		t.Skip(err)
	}
	io.ReadFull(out, make([]byte, len("ready"))) // now its arguments are in place
	defer func() { in.Close(); shown.Wait() }()
	if leaktest.Processes(r, secrets, shown.Process.Pid); len(r.failures) == 0 {
		t.Error("an argument was not found")
	}
}
