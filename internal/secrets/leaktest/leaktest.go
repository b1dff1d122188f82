package leaktest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Secrets maps a name, for the failure message, to a value that must not be
// found.
type Secrets map[string]string

// MinLength is the length in bytes below which a value cannot be looked for:
// it would be found by chance.
const MinLength = 8

// Bytes fails the test if b holds a secret in the raw, in JSON, percent-encoded,
// in hex or in base64 at any alignment. what says where b is from.
func Bytes(t testing.TB, s Secrets, what string, b []byte) {
	t.Helper()
	for _, found := range Find(s, b) {
		t.Errorf("%s holds %s", what, found)
	}
}

// Files fails the test if a file holds a secret. Directories are walked. A
// path that does not exist fails the test too: it would hide a leak.
func Files(t testing.TB, s Secrets, paths ...string) {
	t.Helper()
	for _, root := range paths {
		n := 0
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			n++
			Bytes(t, s, path, b)
			return nil
		})
		if err != nil {
			t.Errorf("search %s: %v", root, err)
		} else if n == 0 {
			t.Errorf("search %s: there is no file in it", root)
		}
	}
}

// Processes fails the test if the command line of a process holds a secret:
// of those given, or of all there are. It only works on Linux and skips
// processes that have ended.
func Processes(t testing.TB, s Secrets, pids ...int) {
	t.Helper()
	if len(pids) == 0 {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			t.Skipf("no /proc: %v", err)
		}
		for _, e := range entries {
			if pid, err := strconv.Atoi(e.Name()); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	for _, pid := range pids {
		path := fmt.Sprintf("/proc/%d/cmdline", pid)
		if b, err := os.ReadFile(path); err == nil {
			Bytes(t, s, path, b)
			Bytes(t, s, path, bytes.ReplaceAll(b, []byte{0}, []byte(" ")))
		}
	}
}

// Find returns what of s is in b, as "name in form".
func Find(s Secrets, b []byte) (found []string) {
	for name, value := range s {
		if len(value) < MinLength {
			found = append(found, fmt.Sprintf("%s, which is too short to look for", name))
			continue
		}
		for form, text := range forms(value) {
			if bytes.Contains(b, []byte(text)) {
				found = append(found, name+" in "+form)
			}
		}
	}
	return found
}

func forms(value string) map[string]string {
	out := map[string]string{
		"the raw": value, "reverse": reverse(value),
		"query encoding": url.QueryEscape(value), "path encoding": url.PathEscape(value),
		"JSON": strings.Trim(strconv.Quote(value), `"`), "hex": hex.EncodeToString([]byte(value)),
		"upper hex": strings.ToUpper(hex.EncodeToString([]byte(value))),
	}
	for shift := range 3 {
		whole := append(make([]byte, shift), value...)
		from, to := (shift*8+5)/6, len(whole)*8/6 // only characters that hold nothing but the value
		out[fmt.Sprintf("base64 at %d", shift)] = base64.RawStdEncoding.EncodeToString(whole)[from:to]
		out[fmt.Sprintf("URL base64 at %d", shift)] = base64.RawURLEncoding.EncodeToString(whole)[from:to]
	}
	return out
}

func reverse(s string) string {
	b := []byte(s)
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return string(b)
}
