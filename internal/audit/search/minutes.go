package search

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
)

// Minute is what was decided about calls in one minute. A held call that is
// made after all is held in one minute and allowed in another; a call that an
// agent repeats is another call.
type Minute struct {
	At      time.Time `json:"at" doc:"the minute's beginning"`
	Allowed int64     `json:"allowed"`
	Denied  int64     `json:"denied" doc:"by policy"`
	Refused int64     `json:"refused" doc:"not understood, unknown or over a limit"`
	Held    int64     `json:"held" doc:"for people to decide"`
	Failed  int64     `json:"failed" doc:"calls that ended in this minute, failed or broken upstream"`
	Added   int64     `json:"added_micros" doc:"median time that deciding added to a call, in microseconds, exact to 9 %; 0 if there was none"`
}

// Rate is calls by the minute.
type Rate struct {
	Minutes []Minute `json:"minutes" doc:"one for each minute of the span, the oldest first; the last one is not over"`
	Total   Minute   `json:"total" doc:"of the whole span"`
	Behind  int64    `json:"behind,omitempty" doc:"events recorded but not yet counted"`
}

// maxMinutes is the longest span, a day.
const maxMinutes = 24 * 60

// Rate counts the calls of the last n minutes and the one that is not over.
// Counts are exact: the index's follower keeps them, each event once.
func (s *Service) Rate(ctx context.Context, n int) (Rate, error) {
	end := s.o.Now().Truncate(time.Minute)
	begin := end.Add(-time.Duration(n) * time.Minute)
	r := Rate{Total: Minute{At: begin.UTC()}}
	for i := range n + 1 {
		r.Minutes = append(r.Minutes, Minute{At: begin.Add(time.Duration(i) * time.Minute).UTC()})
	}
	first := storage.Micros(begin) / time.Minute.Microseconds()
	rows, err := s.db.Query(ctx, `SELECT minute, name, n FROM search_minutes WHERE minute >= $1 AND minute <= $2`, first, first+int64(n))
	if err != nil {
		return r, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	times, all := make([]histogram, n+1), histogram{}
	for i := range times {
		times[i] = histogram{}
	}
	for rows.Next() {
		var minute, count int64
		var name string
		if err := rows.Scan(&minute, &name, &count); err != nil {
			return r, storage.ErrUnavailable.With(err)
		}
		i := minute - first
		if bucket, ok := strings.CutPrefix(name, took); ok {
			times[i].add(bucket, count)
			all.add(bucket, count)
			continue
		}
		r.Minutes[i].add(name, count)
		r.Total.add(name, count)
	}
	if err := rows.Err(); err != nil {
		return r, storage.ErrUnavailable.With(err)
	}
	for i := range times {
		r.Minutes[i].Added = times[i].median()
	}
	r.Total.Added = all.median()
	r.Behind, err = s.Behind(ctx)
	return r, err
}

func (m *Minute) add(name string, n int64) {
	switch name {
	case allowed:
		m.Allowed += n
	case denied:
		m.Denied += n
	case refused:
		m.Refused += n
	case held:
		m.Held += n
	case failed:
		m.Failed += n
	}
}

// histogram counts times by their bucket.
type histogram map[int]int64

func (h histogram) add(bucket string, n int64) {
	if b, err := strconv.Atoi(bucket); err == nil && b >= 0 && b <= lastBucket {
		h[b] += n
	}
}

// median returns the middle time in microseconds, 0 if there is none.
func (h histogram) median() int64 {
	var all, seen int64
	buckets := make([]int, 0, len(h))
	for b, n := range h {
		all += n
		buckets = append(buckets, b)
	}
	slices.Sort(buckets)
	for _, b := range buckets {
		if seen += h[b]; 2*seen > all {
			return bucketTime(b)
		}
	}
	return 0
}

type rateRequest struct {
	Minutes int `query:"minutes" minimum:"0" maximum:"1440" doc:"how many minutes back; 60 if empty"`
}

func (s *Service) serveRate(ctx context.Context, _ rest.Caller, r *rateRequest) (*Rate, error) {
	out, err := s.Rate(ctx, min(cmp.Or(r.Minutes, 60), maxMinutes))
	return &out, err
}
