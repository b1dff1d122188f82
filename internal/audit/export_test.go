package audit

import "time"

// CrowdedAt is how many events wait for a committer that is crowded.
const CrowdedAt = crowdedAt

// Pick returns the lane that the next event goes to, 0 if no committer works.
func (l *Log) Pick() int64 {
	if s := l.pick(); s != nil {
		return s.claim.lane
	}
	return 0
}

// Parked returns a log without running committers: n of them, in lanes from 1
// on, as they look after they have been given what is in waiting and have been at
// a batch for so long.
func Parked(waiting []int, at []time.Duration, down []bool) *Log {
	l := &Log{}
	for i, n := range waiting {
		s := newSlot(l, &claim{lane: int64(i) + 1})
		for range n {
			s.in <- &item{}
		}
		if at[i] != 0 {
			s.busy.Store(int64(time.Since(began) - at[i]))
		}
		s.down.Store(down[i])
		l.slots = append(l.slots, s)
	}
	return l
}

// PassBy makes a committer that nothing is given to look as if it had been at one
// batch for long.
func (l *Log) PassBy(i int) {
	for !l.slots[i].busy.CompareAndSwap(0, int64(time.Since(began)-time.Hour)) { // it is just putting a batch away
		time.Sleep(time.Millisecond)
	}
}
