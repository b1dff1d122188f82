package audit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

const day = 24 * time.Hour

var opening = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// aged opens a log that has recorded one payload a day, by turns of agents a
// and b, each in its run, and returns its clock.
func aged(t *testing.T, db *storage.DB, o audit.Options, days int) (l *audit.Log, events []string, now *time.Time) {
	t.Helper()
	now = new(time.Time)
	*now = opening
	o.Now = func() time.Time { return *now }
	l = open(t, db, o)
	for i := range days {
		*now = opening.Add(time.Duration(i)*day + time.Hour)
		events = append(events, said(t, l, string(rune('a'+i%2)), fmt.Sprint("run-", i), "", fmt.Sprint("text ", i)))
	}
	return l, events, now
}

// kept returns the numbers of the events that still have their payload.
func kept(t *testing.T, l *audit.Log, events []string) string {
	t.Helper()
	var out []string
	for i, event := range events {
		if reads(t, l, event) != "" {
			out = append(out, fmt.Sprint(i))
		}
	}
	return strings.Join(out, " ")
}

func expire(t *testing.T, l *audit.Log, want int64) {
	t.Helper()
	if n, err := l.Expire(context.Background()); n != want || err != nil {
		t.Errorf("%d expired, want %d, %v", n, want, err)
	}
}

func TestPayloadsExpire(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		l, events, now := aged(t, db, options(t), 10)
		forgotten := 0
		l.OnForget(func(_ context.Context, _ *storage.Tx, places []audit.Place) error {
			forgotten += len(places)
			return nil
		})
		if r, err := l.Retention(ctx); r.Days != audit.DefaultRetention || err != nil {
			t.Errorf("%+v, %v", r, err)
		}
		expire(t, l, 0)
		*now = opening.Add(403 * day)
		expire(t, l, 3)
		expire(t, l, 0)
		if got := kept(t, l, events); got != "3 4 5 6 7 8 9" || forgotten != 3 {
			t.Errorf("kept %s, forgotten %d", got, forgotten)
		}
		if rep := mustVerify(t, l); rep.Erased != 3 || rep.Payloads != 7 {
			t.Errorf("%+v", rep)
		}
		recs, err := l.List(ctx, audit.Query{Types: []audit.Type{audit.PayloadExpired}})
		if err != nil || len(recs) != 1 || !strings.Contains(string(recs[0].Raw), `"payloads":3`) || !strings.Contains(string(recs[0].Raw), events[2]) {
			t.Errorf("%+v, %v", recs, err)
		}
		if err := l.SetRetention(ctx, ada, "", audit.Retention{Days: 800}); err != nil {
			t.Fatal(err)
		}
		*now = opening.Add(500 * day)
		expire(t, l, 0)
		if err := l.SetRetention(ctx, ada, "", audit.Retention{Days: 495}); err != nil {
			t.Fatal(err)
		}
		expire(t, l, 2)
		// One gone without a word stands out from those that expired.
		execute(t, db, `UPDATE payloads SET salt = NULL, body = NULL WHERE lane = (SELECT lane FROM events WHERE id = $1) AND sn = (SELECT sn FROM events WHERE id = $1)`, events[7])
		rep, err := l.Verify(ctx, nil)
		if err != nil || len(rep.Problems) != 1 || rep.Problems[0].Event != events[7] {
			t.Errorf("%+v, %v", rep.Problems, err)
		}
	})
}

func TestManyPayloadsExpireInSteps(t *testing.T) {
	db := storagetest.Open(t, storagetest.SQLite(t))
	l, events, now := aged(t, db, options(t), 450)
	*now = opening.Add(1000 * day)
	expire(t, l, 450)
	if got := kept(t, l, events); got != "" {
		t.Errorf("kept %s", got)
	}
	mustVerify(t, l)
}

func TestShortRetentionIsSeen(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		o := options(t)
		var alerts []audit.Alert
		fail := error(nil)
		o.Alert = func(_ context.Context, tx *audit.Tx, a audit.Alert) error {
			if tx == nil {
				t.Error("outside the change")
			}
			alerts = append(alerts, a)
			return fail
		}
		l := open(t, db, o)
		for r, want := range map[audit.Retention]error{{Days: 0}: audit.ErrRetention, {Days: -1}: audit.ErrRetention, {Days: 1 << 20}: audit.ErrRetention, {Days: 182}: audit.ErrReason} {
			if err := l.SetRetention(ctx, ada, " ", r); !errors.Is(err, want) {
				t.Errorf("%+v: %v", r, err)
			}
		}
		if err := l.SetRetention(ctx, ada, "", audit.Retention{Days: 183}); err != nil || len(alerts) != 0 {
			t.Errorf("%v, %v", err, alerts)
		}
		fail = errors.New("boom")
		if err := l.SetRetention(ctx, ada, "a test system", audit.Retention{Days: 30}); !errors.Is(err, fail) {
			t.Error(err)
		}
		if r, _ := l.Retention(ctx); r.Days != 183 {
			t.Errorf("shortened without anybody being told: %+v", r)
		}
		fail = nil
		if err := l.SetRetention(ctx, ada, "a test system", audit.Retention{Days: 30}); err != nil || len(alerts) != 2 || !strings.Contains(alerts[1].Detail, "a test system") {
			t.Errorf("%v, %v", err, alerts)
		}
		recs, err := l.List(ctx, audit.Query{Types: []audit.Type{"retention.changed"}})
		if err != nil || len(recs) != 2 || recs[0].Event.Reason != "a test system" || string(recs[0].Event.Detail) != `{"days":30}` {
			t.Errorf("%+v, %v", recs, err)
		}
	})
}

func TestHolds(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		l, events, now := aged(t, db, options(t), 10)
		place := func(spec audit.HoldSpec) audit.Hold {
			t.Helper()
			h, err := l.Hold(ctx, ada, "case 9", spec)
			if err != nil {
				t.Fatal(err)
			}
			return h
		}
		run, agent := place(audit.HoldSpec{Run: "run-1"}), place(audit.HoldSpec{Agent: "a", From: opening.Add(3 * day), To: opening.Add(5 * day)})
		for what, want := range map[audit.Erasure]string{{Run: "run-1"}: run.ID, {Agent: "b"}: run.ID, {Run: "run-4"}: agent.ID, {Agent: "a"}: agent.ID} {
			if _, err := l.Erase(ctx, ada, "r", what); !errors.Is(err, audit.ErrHeld) || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v", what, err)
			}
		}
		if _, err := l.Erase(ctx, ada, "r", audit.Erasure{Run: "run-6"}); err != nil {
			t.Errorf("no hold covers it: %v", err)
		}
		subject := said(t, l, "c", "run-1", "max", "text")
		if _, err := l.Erase(ctx, ada, "r", audit.Erasure{Subject: "max"}); !errors.Is(err, audit.ErrHeld) || reads(t, l, subject) != "text" {
			t.Error(err)
		}
		*now = opening.Add(409 * day)
		expire(t, l, 6) // 0 to 8 without 1, 4 and 6
		if got := kept(t, l, events); got != "1 4 9" {
			t.Errorf("kept %s", got)
		}
		for _, c := range []struct {
			hold, reason string
			want         error
		}{{"hold_x", "r", audit.ErrNoHold}, {agent.ID, "", audit.ErrReason}, {agent.ID, "settled", nil}, {agent.ID, "again", audit.ErrNoHold}} {
			if err := l.Release(ctx, ada, c.reason, c.hold); !errors.Is(err, c.want) {
				t.Errorf("%+v: %v", c, err)
			}
		}
		expire(t, l, 1)
		if got := kept(t, l, events); got != "1 9" {
			t.Errorf("kept %s", got)
		}
		standing, err := l.Holds(ctx, false)
		if err != nil || len(standing) != 1 || standing[0] != run {
			t.Errorf("%+v, %v", standing, err)
		}
		all, err := l.Holds(ctx, true)
		ended := slices.IndexFunc(all, func(h audit.Hold) bool { return h.ID == agent.ID })
		if err != nil || len(all) != 2 || ended < 0 || all[ended].ReleaseReason != "settled" || all[ended].Released.IsZero() || !all[ended].From.Equal(opening.Add(3*day)) {
			t.Errorf("%+v, %v", all, err)
		}
		for _, spec := range []audit.HoldSpec{{}, {From: opening, To: opening}} {
			if _, err := l.Hold(ctx, ada, "r", spec); !errors.Is(err, audit.ErrHold) {
				t.Errorf("%+v: %v", spec, err)
			}
		}
		if recs, err := l.List(ctx, audit.Query{Types: []audit.Type{"hold.placed", "hold.released"}, Oldest: true}); err != nil || len(recs) != 3 || recs[2].Event.Object != agent.ID {
			t.Errorf("%+v, %v", recs, err)
		}
		mustVerify(t, l)
	})
}
