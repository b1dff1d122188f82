package stdio_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/gateway/mcp/stdio"
	"github.com/countersign/countersign/internal/inspection"
)

const planted = "zK8-planted-value-that-nobody-may-see-41d9"

func scanner(values ...string) *inspection.Scanner {
	s := inspection.New()
	for i, v := range values {
		s.Known().Add(fmt.Sprint("known-", i), []byte(v))
	}
	return s
}

// said feeds text in pieces of at most size bytes, with pauses now and then, and
// returns what was logged.
func said(redact func([]byte) []byte, text string, size int, pauses bool) string {
	var out strings.Builder
	s := stdio.NewComplaints(redact, func(line string) { out.WriteString(line + "\n") })
	for b := []byte(text); len(b) > 0; {
		n := min(len(b), 1+rand.IntN(size))
		s.Take(b[:n])
		if b = b[n:]; pauses && rand.IntN(3) == 0 {
			s.Pause()
		}
	}
	s.End()
	return out.String()
}

// leaks reports whether text holds eight bytes in a row of secret.
func leaks(text, secret string) string {
	for i := range len(secret) - 8 {
		if strings.Contains(text, secret[i:i+8]) {
			return secret[i : i+8]
		}
	}
	return ""
}

func TestASecretAcrossABorderIsNotLogged(t *testing.T) {
	redact := scanner(planted).Redact
	for _, border := range []int{8 << 10, stdio.MaxComplaint, stdio.MaxComplaint - stdio.ComplaintMargin} {
		for _, filler := range []string{"x", "abc def ", "line of a log\n"} {
			for _, shift := range []int{1, len(planted) / 2, len(planted) - 1} {
				before := strings.Repeat(filler, border/len(filler)+1)[:border-shift]
				text := before + planted + strings.Repeat(filler, 40<<10/len(filler)) + "\nthe end\n"
				for _, size := range []int{1 << 20, 300} {
					got := said(redact, text, size, size == 300)
					if part := leaks(got, planted); part != "" {
						t.Errorf("border %d, filler %q, shift %d, pieces of %d: %q is logged", border, filler, shift, size, part)
					}
					if !strings.Contains(got, "the end\n") {
						t.Errorf("border %d, filler %q, shift %d: what follows is lost", border, filler, shift)
					}
				}
			}
		}
	}
}

func TestWhatSpansLinesIsSeenWhole(t *testing.T) {
	var key strings.Builder
	key.WriteString("-----BEGIN PRIVATE KEY-----\n")
	for i := range 20 {
		fmt.Fprintf(&key, "%064d\n", i*7919)
	}
	key.WriteString("-----END PRIVATE KEY-----\n")
	several := "first-line-of-it-7f3a\nsecond-line-of-it-9c1b\nthird-line-of-it-2e8d"
	redact := scanner(several).Redact
	got := said(redact, "starting\n"+key.String()+"between\n"+several+"\nlistening\n", 30, false)
	for _, secret := range append(strings.Split(key.String(), "\n")[1:21], strings.Split(several, "\n")...) {
		if strings.Contains(got, secret) {
			t.Errorf("%q is logged", secret)
		}
	}
	for _, line := range []string{"starting", "between", "listening"} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("%q is lost:\n%s", line, got)
		}
	}
	// a key is waited for even if the child pauses in the middle of it
	if got := said(redact, "a\n"+key.String()+"b\n", 30, true); strings.Contains(got, fmt.Sprintf("%064d", 7919)) || !strings.Contains(got, "b\n") {
		t.Error(got)
	}
}

func TestComplaintsAreBounded(t *testing.T) {
	var logged int
	s := stdio.NewComplaints(scanner(planted).Redact, func(line string) { logged += len(line) })
	endless := bytes.Repeat([]byte("y"), 8<<10)
	for range 200 {
		s.Take(endless)
		s.Pause()
		if s.Held() > stdio.MaxComplaint {
			t.Fatalf("%d bytes are held", s.Held())
		}
	}
	s.End()
	if logged != 200*8<<10 {
		t.Errorf("%d bytes of an endless line were logged", logged)
	}
	// nowhere to cut: dropped up to the next line, never shown in part
	all := func(b []byte) []byte {
		if bytes.HasPrefix(b, []byte("KEY")) {
			return []byte("[redacted]")
		}
		return b
	}
	got := said(all, "KEY"+strings.Repeat("QUJDREVGR0g0", stdio.MaxComplaint/8)+"\nafter\n", 5000, false)
	if strings.Contains(got, "QUJDREVG") || !strings.Contains(got, "dropped") || !strings.Contains(got, "after") {
		t.Errorf("%.300s", got)
	}
	if said(nil, "hello\n", 10, true) != "" {
		t.Error("without a redactor nothing may pass")
	}
}
