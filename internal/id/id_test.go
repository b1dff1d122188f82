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
