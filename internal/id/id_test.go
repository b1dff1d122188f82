package id_test

import (
	"testing"
	"time"

	"github.com/countersign/countersign/internal/id"
)

func TestNewIsRecognisedAndSorts(t *testing.T) {
	early := id.At(id.Event, time.UnixMilli(1_000))
	late := id.At(id.Event, time.UnixMilli(2_000))
	if !id.Is(id.Event, early) || !id.Is(id.Event, late) {
		t.Fatalf("%q or %q not recognised", early, late)
	}
	if early >= late {
		t.Errorf("%q does not sort before %q", early, late)
	}
}

func TestIsRefusesOtherForms(t *testing.T) {
	for _, s := range []string{"", "evt_", "evt_short", id.New(id.Call), id.New(id.Event) + "x", "evt_ABCDEFGHIJKLMNOPQRSTUVWXYZ"} {
		if id.Is(id.Event, s) {
			t.Errorf("Is(Event, %q) = true", s)
		}
	}
}

func TestTimeOfAnIdentifier(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 123_456_000, time.UTC)
	got, ok := id.Time(id.Event, id.At(id.Event, now))
	if d := now.Sub(got); !ok || d < 0 || d > time.Millisecond/4096+1 {
		t.Errorf("%v, %v", got, ok)
	}
	if again, ok := id.Time(id.Event, id.At(id.Event, got)); !ok || !again.Equal(got) {
		t.Errorf("%v is not %v", again, got)
	}
	for _, s := range []string{"", "evt_", "evt_short", id.New(id.Call), id.New(id.Event) + "x"} {
		if _, ok := id.Time(id.Event, s); ok {
			t.Errorf("%q has a time", s)
		}
	}
}
