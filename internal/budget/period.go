package budget

import (
	"sync"
	"time"
	_ "time/tzdata" // a host may have no time zones
)

// The periods after which a budget begins anew.
const (
	Hour  = "hour"
	Day   = "day"
	Month = "month"
	Total = "total" // never
)

// Periods lists them.
var Periods = []string{Hour, Day, Month, Total}

var zones sync.Map // name -> *time.Location

func zone(name string) (*time.Location, error) {
	if name == "" {
		return time.UTC, nil
	}
	if l, ok := zones.Load(name); ok {
		return l.(*time.Location), nil
	}
	l, err := time.LoadLocation(name)
	if err != nil || name == "Local" { // replicas stand in different places
		return nil, ErrInvalid.Say("zone must be a time zone such as Europe/Berlin, or UTC")
	}
	zones.Store(name, l)
	return l, nil
}

// window returns when the period that t is in began, and when it ends: never, if
// that is zero. Hours, also those of a zone that is half an hour off, are 60
// minutes long; days and months are as long as the zone makes them.
func (b *Budget) window(t time.Time) (start, end time.Time) {
	l, err := zone(b.Zone)
	if err != nil { // it was known when the budget was set
		l = time.UTC
	}
	t = t.In(l)
	switch y, m, d := t.Date(); b.Period {
	case Hour:
		_, off := t.Zone()
		s := t.Unix() + int64(off)
		start = time.Unix(s-s%3600-int64(off), 0).UTC()
		return start, start.Add(time.Hour)
	case Day:
		return time.Date(y, m, d, 0, 0, 0, 0, l).UTC(), time.Date(y, m, d+1, 0, 0, 0, 0, l).UTC()
	case Month:
		return time.Date(y, m, 1, 0, 0, 0, 0, l).UTC(), time.Date(y, m+1, 1, 0, 0, 0, 0, l).UTC()
	}
	return time.Time{}, time.Time{}
}
