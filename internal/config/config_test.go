package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/config"
)

func write(t *testing.T, text string) string {
	p := filepath.Join(t.TempDir(), "countersign.yaml")
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEmptyIsValid(t *testing.T) {
	c, err := config.Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:7470" || c.URL != "http://127.0.0.1:7470" || c.Store != filepath.Join("countersign-data", "countersign.db") {
		t.Errorf("defaults: %+v", c)
	}
}

func TestEnvironmentWinsOverFile(t *testing.T) {
	c, err := config.Load(write(t, "listen: 127.0.0.1:1\nlimits:\n  idle_stream: 5s\n"), []string{"COUNTERSIGN_LISTEN=127.0.0.1:2", "COUNTERSIGN_LIMITS_TOOL_BODY=9", "HOME=/x"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:2" || c.Limits.IdleStream != 5*time.Second || c.Limits.ToolBody != 9 {
		t.Errorf("%+v", c)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for _, c := range []struct{ text, env, want string }{
		{"lissten: x", "", "line 1"},
		{"listen: nowhere", "", "HOST:PORT"},
		{"log: {level: loud}", "", "log.level"},
		{"", "COUNTERSIGN_LIMITS_READ_TIMEOUT=soon", "COUNTERSIGN_LIMITS_READ_TIMEOUT"},
		{"url: 'ftp://x'", "", "url"},
	} {
		_, err := config.Load(write(t, c.text), []string{c.env})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q %q: %v", c.text, c.env, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("listen: 127.0.0.1:1")
	f.Add("limits: {idle_stream: 1s}")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := config.Load(write(t, text), nil)
		if err == nil && c.Listen == "" {
			t.Error("a valid configuration without an address")
		}
	})
}
