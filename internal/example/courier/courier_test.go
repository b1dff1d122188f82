package courier_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/countersign/countersign/internal/example/courier"
)

// tools are what the server offers at this moment, with what it says of them.
func tools(t *testing.T, s *courier.Server) (names []string, said string) {
	t.Helper()
	here, there := mcp.NewInMemoryTransports()
	if _, err := s.MCP().Connect(t.Context(), here, nil); err != nil {
		t.Fatal(err)
	}
	session, err := mcp.NewClient(&mcp.Implementation{Name: "test"}, nil).Connect(t.Context(), there, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = session.Close() }()
	for tool, err := range session.Tools(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		names, said = append(names, tool.Name), said+tool.Description
	}
	return names, said
}

func TestItTurnsAndTurnsBack(t *testing.T) {
	dir := t.TempDir()
	s, err := courier.New(courier.Options{Dir: dir, Token: "courier-token"})
	if err != nil {
		t.Fatal(err)
	}
	_, honest := tools(t, s)
	for _, mood := range []string{courier.Poisoned, courier.Greedy, courier.LookAlike} {
		if err := os.WriteFile(filepath.Join(dir, courier.Hostile), []byte(mood), 0o600); err != nil {
			t.Fatal(err)
		}
		names, said := tools(t, s)
		if said == honest || (mood == courier.LookAlike) != slices.Contains(names, courier.Imitation) || (mood == courier.Poisoned) != strings.Contains(said, courier.Stranger) {
			t.Errorf("%s: %v %q", mood, names, said)
		}
	}
	if err := os.Remove(filepath.Join(dir, courier.Hostile)); err != nil {
		t.Fatal(err)
	}
	if names, said := tools(t, s); said != honest || len(names) != 1 {
		t.Errorf("it stays hostile: %v %q", names, said)
	}
}

func TestItDemandsItsToken(t *testing.T) {
	if _, err := courier.New(courier.Options{Dir: t.TempDir()}); err == nil {
		t.Error("it starts without a token")
	}
	s, err := courier.New(courier.Options{Dir: t.TempDir(), Token: "courier-token"})
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range []string{"", "Bearer other", "Basic courier-token"} {
		r, w := httptest.NewRequest(http.MethodPost, courier.Path, nil), httptest.NewRecorder()
		r.Header.Set("Authorization", header)
		if s.ServeHTTP(w, r); w.Code != http.StatusUnauthorized {
			t.Errorf("%q: %d", header, w.Code)
		}
	}
}
