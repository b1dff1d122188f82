package connections_test

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func TestWhatIsDoneAboutWhatIsFoundIsKept(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r := open(t, db)
		want := map[string]string{"secret": "redact", "injection": "hold:data-protection"}
		register := func(inspect map[string]string) error {
			_, err := r.Register(ctx, pat, "test", llm(func(c *connections.Connection) { c.Inspect = inspect }))
			return err
		}
		given := map[string]string{"secret": "redact", "injection": "hold:data-protection", "pii": "note"}
		if err := register(given); err != nil {
			t.Fatal(err)
		}
		c, _ := r.Connection("openai")
		if !maps.Equal(c.Inspect, want) || len(given) != 3 {
			t.Errorf("kept %v, of %v", c.Inspect, given)
		}
		if err := register(map[string]string{"secret": "block"}); err != nil {
			t.Fatal(err)
		}
		if got := r.events("connection.updated"); len(got) != 1 || !strings.Contains(string(got[0].Event.Detail), `"inspect"`) {
			t.Errorf("events %+v", got)
		}
		for _, wrong := range []map[string]string{{"secrets": "block"}, {"secret": "delete"}, {"secret": ""}, {"pii": "hold:"}, {"pii": "hold:Not A Name"}, {"": "note"}} {
			var field *connections.FieldError
			if err := register(wrong); !errors.Is(err, connections.ErrSpec) || !errors.As(err, &field) || field.Field != "inspect" {
				t.Errorf("%v: %v", wrong, err)
			}
		}
	})
}
