package routines

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

// module is the beginning of the import paths of this module's packages.
const module = "github.com/countersign/countersign/"

// In returns the stacks of the goroutines that run code of a package of this
// module, such as "internal/approvals", or were started by it. The caller's own
// is none of them, nor are those of tests.
func In(pkg string) []string {
	buf := make([]byte, 1<<20)
	for n := runtime.Stack(buf, true); ; n = runtime.Stack(buf, true) {
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	var out []string
	for i, stack := range strings.Split(string(buf), "\n\n") {
		if i > 0 && strings.Contains(stack, module+pkg+".") { // the first is the caller's
			out = append(out, stack)
		}
	}
	return out
}

// Left fails the test unless soon no more than want goroutines run code of the
// package.
func Left(t testing.TB, pkg string, want int) {
	t.Helper()
	var now []string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if now = In(pkg); len(now) <= want {
			return
		}
	}
	t.Fatalf("%d goroutines of %s, not %d:\n%s", len(now), pkg, want, strings.Join(now, "\n\n"))
}
