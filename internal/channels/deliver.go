package channels

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/channels/send"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
)

// How deliveries run.
const (
	lookEvery = 500 * time.Millisecond
	leaseFor  = 10 * time.Second
	tryFor    = 20 * time.Second // one attempt
	batch     = 200
	keepFor   = 30 * 24 * time.Hour // what was told, and signatures much shorter
	ruleDead  = "channel.undeliverable"
)

// Start begins to deliver.
func (s *Service) Start(ctx context.Context) error {
	bg, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.done.Go(func() { s.run(bg) })
	return nil
}

// Stop ends delivering; what is under way is tried again by who comes next. It
// may be called without Start and twice.
func (s *Service) Stop(context.Context) error {
	if s.cancel != nil {
		s.cancel()
		s.done.Wait()
		s.cancel = nil
	}
	return nil
}

func (s *Service) run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			_ = s.lease.Release(context.WithoutCancel(ctx)) // it expires if this fails
			return
		case <-tick.C:
		}
		if err := s.Look(ctx); err != nil && ctx.Err() == nil {
			s.Logger.Warn("what channels have to tell could not be looked for; it is again in a moment", "error", err)
		}
	}
}

// Look begins to deliver what is due, if this replica holds the lease. It waits
// for no channel: each has a goroutine of its own while it has something to tell.
func (s *Service) Look(ctx context.Context) error {
	if ok, err := s.lease.Acquire(ctx); err != nil || !ok {
		return err
	}
	due, err := dueDeliveries(ctx, s.DB, s.Now(), batch)
	if err != nil {
		return err
	}
	byChannel := map[string][]delivery{}
	for _, d := range due {
		byChannel[d.Channel] = append(byChannel[d.Channel], d)
	}
	for channel, list := range byChannel {
		c, ok := s.find(func(c Channel) bool { return c.ID == channel })
		if !ok || !s.begin(channel) {
			continue
		}
		s.done.Go(func() {
			defer s.end(channel)
			for _, d := range list {
				if err := s.deliver(ctx, c, d); err != nil {
					if ctx.Err() == nil && !errors.Is(err, job.ErrFenced) {
						s.Logger.Warn("a message to a channel could not be tried", "channel", c.Name, "delivery", d.ID, "error", err)
					}
					return
				}
			}
		})
	}
	if s.Now().Sub(s.cleaned) < time.Hour {
		return nil
	}
	s.cleaned = s.Now()
	return s.clean(ctx)
}

func (s *Service) begin(channel string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[channel] {
		return false
	}
	s.busy[channel] = true
	return true
}

func (s *Service) end(channel string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, channel)
}

// deliver makes one attempt. It is counted before it is made: a message that
// kills us is dead in the end, too. Its error is about us, not the channel.
func (s *Service) deliver(ctx context.Context, c Channel, d delivery) error {
	again := s.Now().Add(tryFor + s.Backoff(d.Attempts))
	claimed, err := s.claim(ctx, d, again)
	if err != nil || !claimed {
		return err
	}
	d.Attempts++
	ref, cause := s.try(ctx, c, d)
	if ctx.Err() != nil {
		return ctx.Err() // we are stopping; nobody's fault
	}
	return s.told(ctx, c, d, ref, cause)
}

// claim counts an attempt, if the delivery is still as it was read and the lease ours.
func (s *Service) claim(ctx context.Context, d delivery, again time.Time) (bool, error) {
	err := s.DB.Tx(ctx, func(tx *storage.Tx) error {
		if err := s.lease.Check(ctx, tx); err != nil {
			return err
		}
		return tx.ExecOne(ctx, `UPDATE channel_deliveries SET attempts = attempts + 1, next = $1 WHERE id = $2 AND state = 'waiting' AND attempts = $3`, storage.Micros(again), d.ID, d.Attempts)
	})
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// told stores how an attempt ended. The last one that fails opens a finding;
// one that works closes it.
func (s *Service) told(ctx context.Context, c Channel, d delivery, ref string, cause error) error {
	state, said, next := sent, "", s.Now()
	if cause != nil {
		state, said, next = waiting, fault.Public(cause).Message, s.Now().Add(s.Backoff(d.Attempts))
		if d.Attempts >= s.Attempts {
			state = dead
		}
	}
	put := func(tx *storage.Tx) error {
		if err := s.lease.Check(ctx, tx); err != nil {
			return err
		}
		return tx.ExecOne(ctx, `UPDATE channel_deliveries SET state = $1, error = $2, next = $3, ref = $4 WHERE id = $5 AND attempts = $6`, state, said, storage.Micros(next), ref, d.ID, d.Attempts)
	}
	if cause == nil && d.Attempts == 1 || state == waiting {
		return s.DB.Tx(ctx, put)
	}
	return s.Log.Change(ctx, func(tx *audit.Tx) error {
		if err := put(tx.Tx); err != nil {
			return err
		}
		tx.Record(event("channel.tried", audit.System, "", c, map[string]any{"delivery": d.ID, "approval": d.Approval, "attempts": d.Attempts, "state": state}))
		if cause == nil {
			return s.Findings.CloseObjectTx(ctx, tx, audit.System, "channel/"+c.Name, "it takes messages again", ruleDead)
		}
		return s.Findings.OpenTx(ctx, tx, findings.Finding{Rule: ruleDead, Severity: findings.High, Object: "channel/" + c.Name, Title: "the channel " + c.Name + " could not be told something",
			Detail: said + ". Held calls can be decided everywhere else. Mend it and try: countersign channel test " + c.Name})
	})
}

// try makes an attempt after it is on record.
func (s *Service) try(ctx context.Context, c Channel, d delivery) (ref string, err error) {
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	call := id.New(id.Call)
	ev := audit.Event{Actor: audit.System, Call: call, Connection: c.Connection(), Owner: c.Owner, Tool: "channel/" + d.What, Object: "channel/" + c.Name, Reason: d.ID}
	if d.Approval != "" {
		ev.Objects = []string{"approval/" + d.Approval}
	}
	receipt, err := s.Log.Intent(ctx, ev)
	if err != nil {
		return "", err
	}
	ref, err = s.send(ctx, receipt, call, c, d)
	end := &audit.Outcome{Status: audit.Succeeded}
	if err != nil {
		end.Status, end.Error = audit.Failed, fault.Public(err).Message
	}
	s.Log.Outcome(receipt, audit.Event{Actor: audit.System, Outcome: end})
	return ref, err
}

func (s *Service) send(ctx context.Context, r audit.Receipt, call string, c Channel, d delivery) (ref string, err error) {
	if d.What == whatReply {
		return "", send.Reply(ctx, d.News.Reply, c.AllowPrivate, reply(d.News.Said))
	}
	secret, err := s.Secrets.Inject(ctx, r, secrets.Use{Call: call, Secret: c.Secret, Connection: c.Connection(), Host: hostOf(c.URL)})
	if err != nil {
		return "", err
	}
	defer secret.Wipe()
	m, err := s.message(ctx, c, d)
	if err != nil {
		return "", err
	}
	switch c.Kind {
	case Webhook:
		return "", send.Webhook(ctx, c.URL, c.AllowPrivate, secret, d.ID, s.Now(), []byte(text(m)))
	case Slack:
		return s.slack(ctx, c, d, m, secret)
	}
	return "", send.Notice(ctx, secret, m.subject(), m.lines(), d.News.To)
}

// slack posts a message, or brings the one about the request up to date.
func (s *Service) slack(ctx context.Context, c Channel, d delivery, m Message, token secrets.Value) (string, error) {
	ref := ""
	if d.What == string(approvals.Settled) {
		var err error
		if ref, _, err = refOf(ctx, s.DB, c.ID, d.Approval); err != nil {
			return "", err
		}
	}
	if ref == "" {
		return send.Slack(ctx, c.URL, "chat.postMessage", c.AllowPrivate, token, m.slack(c.Room, ""))
	}
	return send.Slack(ctx, c.URL, "chat.update", c.AllowPrivate, token, m.slack(c.Room, ref))
}

func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Host
}

// clean forgets what was told long ago, and signatures that are too old to be
// accepted anyway.
func (s *Service) clean(ctx context.Context) error {
	return s.DB.Tx(ctx, func(tx *storage.Tx) error {
		now := s.Now()
		for q, before := range map[string]time.Time{
			`DELETE FROM channel_deliveries WHERE state <> 'waiting' AND created < $1`: now.Add(-keepFor),
			`DELETE FROM channel_seen WHERE at < $1`:                                   now.Add(-4 * send.SlackWindow),
			`DELETE FROM channel_links WHERE until < $1`:                               now,
		} {
			if _, err := tx.Exec(ctx, q, storage.Micros(before)); err != nil {
				return err
			}
		}
		return nil
	})
}
