package cli

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json/v2"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/approvals/statement"
)

func (a *app) approvalsCommand() *cobra.Command {
	return group("approvals", "See held calls and decide about them", a.approvalsList(), a.approvalsWatch(), a.approvalsShow(), a.approvalsVerify(), a.approvalsKey(),
		a.approvalsComment(), a.approvalsBreakGlass(), a.approvalsWithdraw(), a.approvalsDelegate(), a.approvalsDelegations(), a.approvalsEndDelegation(), a.approvalsNotices(), a.approvalsSeen(), a.approvalsStats())
}

func approvalIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Approvals(ctx, client.ApprovalQuery{State: "pending"})
	return namesOf(l, err, func(r client.Approval) string { return r.ID + "\t" + r.Summary })
}

func approvalColour(state string) string {
	switch state {
	case "pending":
		return yellow
	case "approved", "executed":
		return green
	case "denied", "expired", "void":
		return red
	}
	return ""
}

func (a *app) approvalsList() *cobra.Command {
	q := client.ApprovalQuery{}
	var all bool
	cmd := &cobra.Command{Use: "list", Short: "List held calls that wait for people, newest first", Args: operands(),
		Example: "  countersign approvals list\n  countersign approvals list --all --agent invoice-checker"}
	cmd.Flags().BoolVar(&all, "all", false, "those that wait no more, too")
	cmd.Flags().StringVar(&q.State, "state", "", "pending, approved, executing, executed, denied, expired or void")
	cmd.Flags().StringVar(&q.Agent, "agent", "", "of this agent only")
	cmd.Flags().IntVarP(&q.Limit, "limit", "n", 100, "at most so many")
	fixed(cmd, "state", "pending", "approved", "executing", "executed", "denied", "expired", "void")
	a.completeFlag(cmd, "agent", agentNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		if !all && q.State == "" {
			q.State = "pending"
		}
		found, err := c.Approvals(ctx, q)
		if err != nil {
			return err
		}
		return a.approvalRows(found, "nothing waits for people")
	})
	return cmd
}

func (a *app) approvalRows(found []client.Approval, empty string) error {
	return list(a, found, empty,
		column[client.Approval]{"ID", func(r client.Approval) string { return r.ID }, nil},
		column[client.Approval]{"STATE", func(r client.Approval) string { return r.State }, func(r client.Approval) string { return approvalColour(r.State) }},
		column[client.Approval]{"DECIDE", func(r client.Approval) string {
			if r.State == "pending" {
				return until(r.DecideBy)
			}
			return ""
		}, nil},
		column[client.Approval]{"BY", func(r client.Approval) string {
			if r.Mine {
				return "you"
			}
			return strings.Join(r.Groups, ", ")
		}, nil},
		column[client.Approval]{"WHAT", func(r client.Approval) string { return r.Summary }, nil})
}

func (a *app) approvalsWatch() *cobra.Command {
	var agent string
	cmd := &cobra.Command{Use: "watch", Short: "Print held calls as they come and are settled, until interrupted", Args: operands()}
	cmd.Flags().StringVar(&agent, "agent", "", "of this agent only")
	a.completeFlag(cmd, "agent", agentNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		known := map[string]string{}
		for wait := 0; ; wait = 25 {
			found, err := c.Approvals(ctx, client.ApprovalQuery{Agent: agent, Wait: wait})
			if err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			for i := len(found) - 1; i >= 0; i-- {
				r := found[i]
				was, seen := known[r.ID]
				known[r.ID] = r.State
				if was == r.State || (!seen && wait == 0 && r.State != "pending") {
					continue
				}
				if err := a.approvalLine(r); err != nil {
					return err
				}
			}
		}
	})
	return cmd
}

// approvalLine prints one request, as one line.
func (a *app) approvalLine(r client.Approval) error {
	if a.output == "json" {
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "%s\n", b)
		return err
	}
	note := r.Why
	if r.State == "pending" {
		note = "decide " + until(r.DecideBy)
	}
	_, err := fmt.Fprintf(a.stdout, "%s %s  %s  (%s)\n", a.paint(a.stdout, approvalColour(r.State), strings.ToUpper(r.State)), r.ID, inert(r.Summary, 0), inert(note, 0))
	return err
}

func (a *app) approvalsShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show ID", Short: "Show a held call: what it is, why it is held, what came before", Args: operands("ID"), ValidArgsFunction: a.completeFirst(approvalIDs)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		r, err := c.Approval(ctx, args[0], 0)
		if err != nil {
			return err
		}
		return a.showApproval(r)
	})
	return cmd
}

func (a *app) approveCommand() *cobra.Command {
	return a.decideCommand("approve", "Approve a held call", "approved")
}

func (a *app) denyCommand() *cobra.Command {
	return a.decideCommand("deny", "Deny a held call", "denied")
}

func (a *app) decideCommand(verb, short, done string) *cobra.Command {
	cmd := &cobra.Command{Use: verb + " ID --reason TEXT", Short: short, Args: operands("ID"), ValidArgsFunction: a.completeFirst(approvalIDs),
		Example: "  countersign " + verb + " apr_… --reason 'checked against the order'"}
	var forRun bool
	if verb == "approve" {
		cmd.Flags().BoolVar(&forRun, "for-run", false, "and the same tool with the same values, for the rest of the run (countersign endorsement list shows it)")
	}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		r, err := c.DecideApproval(ctx, args[0], verb, "")
		if err != nil {
			return err
		}
		if forRun {
			if _, err := c.ExtendApproval(ctx, r.ID); err != nil {
				return fmt.Errorf("%s is approved, but for this one call: %w", r.ID, err)
			}
			done += " for the rest of its run"
		}
		if r.State == "pending" {
			return a.did(r, "%s by you; %s waits for more people", done, r.ID)
		}
		return a.did(r, "%s %s: %s", r.ID, done, r.Summary)
	})
	return cmd
}

func (a *app) approvalsComment() *cobra.Command {
	var ask bool
	cmd := &cobra.Command{Use: "comment ID TEXT", Short: "Remark on a held call, or ask the agent's owner", Args: operands("ID", "TEXT"), ValidArgsFunction: a.completeFirst(approvalIDs)}
	cmd.Flags().BoolVar(&ask, "ask-owner", false, "ask the agent's owner")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := c.CommentApproval(ctx, args[0], args[1], ask); err != nil {
			return err
		}
		return a.did(map[string]string{"id": args[0]}, "remark on %s recorded", args[0])
	})
	return cmd
}

func (a *app) approvalsBreakGlass() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "break-glass ID --reason TEXT", Short: "Approve in an emergency: told to everyone passed over, and reviewed", Args: operands("ID"), ValidArgsFunction: a.completeFirst(approvalIDs)}
	yesFlag(cmd, &yes)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := a.confirm(yes, "Break the glass for %s? Everyone you pass over is told, and it opens a finding that must be reviewed.", args[0]); err != nil {
			return err
		}
		r, err := c.BreakGlass(ctx, args[0], "")
		if err != nil {
			return err
		}
		return a.did(r, "%s approved by breaking the glass, good %s; a finding was opened", r.ID, until(r.ExecuteBy))
	})
	return cmd
}

func (a *app) approvalsWithdraw() *cobra.Command {
	cmd := &cobra.Command{Use: "withdraw ID --reason TEXT", Short: "End a request that nobody shall decide about any more", Args: operands("ID"), ValidArgsFunction: a.completeFirst(approvalIDs)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		r, err := c.WithdrawApproval(ctx, args[0])
		if err != nil {
			return err
		}
		return a.did(r, "%s withdrawn", r.ID)
	})
	return cmd
}

func (a *app) approvalsDelegate() *cobra.Command {
	var giver, from, to string
	var lasts time.Duration
	cmd := &cobra.Command{Use: "delegate TAKER --until TIME --reason TEXT", Short: "Let someone decide in your place for a time", Args: operands("TAKER"), ValidArgsFunction: a.completeFirst(userNames),
		Example: "  countersign approvals delegate ben --for 72h --reason 'on leave'\n  countersign approvals delegate ben --from 2026-12-01T00:00:00Z --until 2026-12-08T00:00:00Z --reason 'on leave'"}
	cmd.Flags().StringVar(&giver, "giver", "", "in whose place (administrators only; you if empty)")
	cmd.Flags().StringVar(&from, "from", "", "when it begins, RFC 3339 (now if empty)")
	cmd.Flags().StringVar(&to, "until", "", "when it ends, RFC 3339")
	cmd.Flags().DurationVar(&lasts, "for", 0, "how long it lasts, instead of --until")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		since, err := timeFlag("from", from)
		if err != nil {
			return err
		}
		end, err := timeFlag("until", to)
		if err != nil {
			return err
		}
		if end.IsZero() {
			if lasts <= 0 {
				return usageError{fmt.Errorf("say how long: --until TIME or --for DURATION")}
			}
			begin := since
			if begin.IsZero() {
				begin = time.Now()
			}
			end = begin.Add(lasts)
		}
		d, err := c.Delegate(ctx, giver, args[0], since, end)
		if err != nil {
			return err
		}
		return a.did(d, "%s decides in the place of %s until %s (%s)", d.Taker, d.Giver, d.Until.Format(time.RFC3339), d.ID)
	})
	return cmd
}

func timeFlag(name, value string) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return t, usageError{fmt.Errorf("--%s %s is no time such as 2026-12-01T09:00:00Z", name, value)}
	}
	return t, nil
}

func (a *app) approvalsDelegations() *cobra.Command {
	cmd := &cobra.Command{Use: "delegations", Short: "List who decides in whose place", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		found, err := c.Delegations(ctx)
		if err != nil {
			return err
		}
		return list(a, found, "nobody decides in another's place",
			column[client.Delegation]{"ID", func(d client.Delegation) string { return d.ID }, nil},
			column[client.Delegation]{"GIVER", func(d client.Delegation) string { return d.Giver }, nil},
			column[client.Delegation]{"TAKER", func(d client.Delegation) string { return d.Taker }, nil},
			column[client.Delegation]{"FROM", func(d client.Delegation) string { return d.Since.Format(time.RFC3339) }, nil},
			column[client.Delegation]{"UNTIL", func(d client.Delegation) string { return d.Until.Format(time.RFC3339) }, nil},
			column[client.Delegation]{"REASON", func(d client.Delegation) string { return d.Reason }, nil})
	})
	return cmd
}

func (a *app) approvalsEndDelegation() *cobra.Command {
	cmd := &cobra.Command{Use: "end-delegation ID --reason TEXT", Short: "End a delegation before its time", Args: operands("ID")}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := c.EndDelegation(ctx, args[0]); err != nil {
			return err
		}
		return a.did(gone{args[0], true}, "delegation %s ended", args[0])
	})
	return cmd
}

// Verified is the result of checking one decision.
type verified struct {
	ID      string `json:"id"`
	Person  string `json:"person"`
	Verdict string `json:"verdict"`
	Valid   bool   `json:"valid"`
	Passkey bool   `json:"passkey"` // the person's own signature is there, and valid
	Problem string `json:"problem,omitempty"`
}

func (a *app) approvalsVerify() *cobra.Command {
	var key string
	cmd := &cobra.Command{Use: "verify ID", Short: "Check the signatures of who decided what", Args: operands("ID"), ValidArgsFunction: a.completeFirst(approvalIDs),
		Long: "Check that each decision about a request was signed by the server over the request's digest.\n" +
			"The signatures stand in the log too (approval.granted, approval.voted, approval.denied), and so in its proofs. Give --key as you noted it before to trust this server no more than needed."}
	cmd.Flags().StringVar(&key, "key", "", "public key (base64) that must have signed; asked of the server if empty")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		r, err := c.Approval(ctx, args[0], 0)
		if err != nil {
			return err
		}
		if key == "" {
			if key, err = c.ApprovalKey(ctx); err != nil {
				return err
			}
		}
		public, err := base64.StdEncoding.DecodeString(key)
		if err != nil || len(public) != ed25519.PublicKeySize {
			return usageError{fmt.Errorf("--key is not a base64 Ed25519 key")}
		}
		return a.verifyDecisions(r, public)
	})
	return cmd
}

func (a *app) approvalsKey() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Show the key that signs decisions, to note it", Args: operands(),
		Long: "Show the public key (base64 Ed25519) that signs decisions. Note it elsewhere: approvals verify --key and log verify FILE --approvals-key take it."}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		key, err := c.ApprovalKey(ctx)
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(map[string]string{"algorithm": "Ed25519", "key": key})
		}
		_, err = fmt.Fprintln(a.stdout, key)
		return err
	})
	return cmd
}

func (a *app) verifyDecisions(r client.ApprovalDetail, key ed25519.PublicKey) error {
	var out []verified
	bad := false
	for _, d := range r.Decisions {
		v := verified{ID: r.ID, Person: d.Person, Verdict: d.Verdict}
		v.Passkey, v.Problem = decisionProblem(r, d, key)
		v.Valid = v.Problem == ""
		bad = bad || !v.Valid
		out = append(out, v)
	}
	err := list(a, out, "nobody has decided yet",
		column[verified]{"PERSON", func(v verified) string { return v.Person }, nil},
		column[verified]{"VERDICT", func(v verified) string { return v.Verdict }, nil},
		column[verified]{"SIGNATURE", func(v verified) string {
			switch {
			case v.Valid && v.Passkey:
				return "valid, by passkey too"
			case v.Valid:
				return "valid"
			}
			return v.Problem
		}, func(v verified) string {
			if v.Valid {
				return green
			}
			return red
		}})
	if err == nil && bad {
		return exitError{1}
	}
	return err
}

func decisionProblem(r client.ApprovalDetail, d client.ApprovalVote, key ed25519.PublicKey) (passkey bool, problem string) {
	st, err := statement.Verify(d.Statement, d.Signature, key)
	if err != nil {
		return false, err.Error()
	}
	if st.Approval != r.ID || st.Digest != r.Digest || st.Verdict != d.Verdict || st.Person.ID != d.PersonID {
		return false, "what is signed is not what is shown"
	}
	return st.Passkey != nil, ""
}
