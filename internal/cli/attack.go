package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/config"
	"github.com/countersign/countersign/internal/example"
)

func (a *app) attackCommand() *cobra.Command {
	var on bool
	var data string
	cmd := &cobra.Command{Use: "attack --example [ATTACK...]", Short: "Attack the running example business; exit 1 if anything gets through", Args: operands("[ATTACK...]"), ValidArgs: attackNames(),
		Long: `Replays fifteen attacks (or those that are named) against the example business that countersign up --example runs here, as real calls of agents that have been
taken over: whatever the model might have refused is done. It says of each what was tried and what stopped it, by the log.

Twelve are refused, or held for people. Three are not, because nothing about a single call is wrong: an invoice that nobody ordered is paid,
a bad release is tried, a stolen key is used. What did get through is said, and how it was taken back, rolled back and cut.

Then the same attacks are made on a throw-away business beside it, in which what stopped them is taken away, until they get through: what
stops them next is the layer behind. Nothing else than the example business is ever attacked. What waits for people afterwards are
attacks: countersign approvals list shows them, and they end by themselves.`,
		Example: "  countersign up --example                     in one terminal\n  countersign attack --example                 in another, in the same directory\n  countersign attack --example stolen-key      one of them"}
	cmd.Flags().BoolVar(&on, "example", false, "attack the example business (there is nothing else that may be attacked)")
	cmd.Flags().StringVar(&data, "data", "", "the example's directory (COUNTERSIGN_DATA; default ./countersign-data)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !on {
			return usageError{errors.New("say --example: only the example business may be attacked")}
		}
		list, err := attacksNamed(args)
		if err != nil {
			return usageError{err}
		}
		return a.attack(cmd.Context(), list, or(data, os.Getenv("COUNTERSIGN_DATA"), "countersign-data"))
	}
	return cmd
}

// errNoExample says why a server is not attacked.
var errNoExample = errors.New("this is not the example business, so it is not attacked: start it with countersign up --example, and run this in the same directory")

func attackNames() []string {
	var names []string
	for _, as := range assaults {
		names = append(names, as.id)
	}
	return names
}

// attacksNamed are the attacks of those names, in their usual order; all of none.
func attacksNamed(names []string) ([]assault, error) {
	for _, n := range names {
		if !slices.Contains(attackNames(), n) {
			return nil, fmt.Errorf("there is no attack %q; there are %s", n, strings.Join(attackNames(), ", "))
		}
	}
	if len(names) == 0 {
		return assaults, nil
	}
	return slices.DeleteFunc(slices.Clone(assaults), func(as assault) bool { return !slices.Contains(names, as.id) }), nil
}

func (a *app) attack(ctx context.Context, list []assault, data string) error {
	target, err := a.target(ctx, data)
	if err != nil {
		return err
	}
	found, err := target.all(ctx, list, a.saying("attacking the example business"))
	if err != nil {
		return err
	}
	err = a.throwaway(ctx, func(ctx context.Context, s *showcase) error {
		return (&raid{showcase: s}).behind(ctx, list, found, a.saying("looking behind what stopped it, in a throw-away business"))
	})
	if err != nil {
		return fmt.Errorf("the throw-away business: %w", err)
	}
	if err := a.printAttacks(found); err != nil {
		return err
	}
	if slices.ContainsFunc(found, func(r result) bool { return !r.Stopped }) {
		return exitError{1}
	}
	return nil
}

// saying says on a terminal what is being done.
func (a *app) saying(what string) func(string) {
	return func(name string) {
		if colours(a.stderr) {
			fmt.Fprintf(a.stderr, "%s: %s\n", what, name)
		}
	}
}

// target is the running example business, or the reason why this is none.
func (a *app) target(ctx context.Context, data string) (*raid, error) {
	c, err := a.client()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(data, "example")
	if _, err := os.Stat(filepath.Join(dir, "business.json")); err != nil {
		return nil, fmt.Errorf("%w (%s is not there)", errNoExample, filepath.Join(dir, "business.json"))
	}
	b, err := openBusiness(dir)
	if err != nil {
		return nil, err
	}
	b.addresses = b.known.Addresses
	s := &showcase{app: a, business: b, c: c.WithReason("an attack on the example business"), data: data}
	if err := s.same(ctx); err != nil {
		return nil, err
	}
	return &raid{showcase: s}, nil
}

// same is an error unless every agent and every connection of the server is one
// of the example's, exactly as the example has it, and on this machine. Policies
// and grants may differ: whether they still hold is what an attack shows.
func (s *showcase) same(ctx context.Context) error {
	files, err := example.Files(s.addresses)
	if err != nil {
		return errNoExample
	}
	var texts []client.NamedText
	for _, f := range files {
		texts = append(texts, client.NamedText{Name: f.Name, Text: string(f.Text)})
	}
	found, err := findSecrets(texts, s.secrets)
	if err != nil {
		return err
	}
	plan, err := s.c.Apply(ctx, texts, found.values, true)
	if err != nil {
		return err
	}
	ours := map[string]bool{}
	for _, x := range plan.Changes {
		if x.Kind != "Agent" && x.Kind != "Connection" {
			continue
		}
		if x.Op != "none" {
			return fmt.Errorf("%w (%s %s is another)", errNoExample, strings.ToLower(x.Kind), inert(x.Name, 0))
		}
		ours[x.Kind+" "+x.Name] = true
	}
	if len(plan.Problems) > 0 {
		return fmt.Errorf("%w (%s)", errNoExample, inert(plan.Problems[0].String(), 0))
	}
	return s.noOthers(ctx, ours)
}

// noOthers is an error if the server has an agent or a connection beside ours.
func (s *showcase) noOthers(ctx context.Context, ours map[string]bool) error {
	agents, err := s.c.Agents(ctx)
	if err != nil {
		return err
	}
	connections, err := s.c.Connections(ctx)
	if err != nil {
		return err
	}
	var all []string
	for _, x := range agents {
		all = append(all, "Agent "+x.Name)
	}
	for _, x := range connections {
		all = append(all, "Connection "+x.Name)
	}
	for _, x := range all {
		if !ours[x] {
			return fmt.Errorf("%w (%s is none of it)", errNoExample, inert(strings.ToLower(x), 0))
		}
	}
	return nil
}

// throwaway runs fn with an example business of its own, of which nothing stays.
func (a *app) throwaway(ctx context.Context, fn func(context.Context, *showcase) error) (err error) {
	dir, err := os.MkdirTemp("", "countersign-attack-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cfg, err := config.Load("", append(plainEnvironment(), "COUNTERSIGN_DATA="+dir, "COUNTERSIGN_LISTEN=127.0.0.1:0", "COUNTERSIGN_LOG_LEVEL=error"))
	if err != nil {
		return err
	}
	b, err := openBusiness(filepath.Join(dir, "example"))
	if err != nil {
		return err
	}
	b.openai, b.anthropic = "", "" // no real model is asked
	quiet := *a
	quiet.stdout, quiet.stderr = io.Discard, io.Discard
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var inside error
	finished := make(chan struct{})
	began := false
	err = a.opts.Serve(ctx, cfg, func(r Ready) {
		began = true
		go func() {
			defer close(finished)
			defer cancel()
			s := &showcase{app: &quiet, business: b, c: client.New(r.URL, r.AdminToken).WithReason("an attack on a throw-away example business"), data: dir}
			if inside = s.business.open(ctx, 0); inside == nil {
				inside = s.register(ctx)
			}
			if inside == nil {
				inside = fn(ctx, s)
			}
		}()
	})
	if began {
		<-finished
	}
	return errors.Join(inside, err)
}

func (a *app) printAttacks(found []result) error {
	if a.output == "json" {
		return a.printJSON(found)
	}
	through, alone := 0, 0
	for _, r := range found {
		a.printAttack(r)
		switch {
		case !r.Stopped:
			through++
		case r.Behind == nil:
			alone++
			fmt.Fprintf(a.stdout, "  %s  %s\n", a.paint(a.stdout, yellow, "behind it "), "nothing: with that taken away it got through")
		default:
			fmt.Fprintf(a.stdout, "  %s  %s\n", a.paint(a.stdout, dim, "behind it "), r.Behind)
		}
	}
	fmt.Fprintf(a.stdout, "\n%d attacks, %d got through, %d stopped by one layer alone. Look at one: %s, and %s where a policy stopped it\n", len(found), through, alone,
		self()+" log show EVENT", self()+" policy why EVENT")
	return nil
}

// printAttack says how one attack went.
func (a *app) printAttack(r result) {
	fmt.Fprintf(a.stdout, "%s %s\n", a.paint(a.stdout, bold, padded(r.ID, 20)), inert(r.Tried, 0))
	if !r.Stopped {
		fmt.Fprintf(a.stdout, "  %s  %s\n", a.paint(a.stdout, red, "GOT THROUGH"), inert(r.Event, 0))
		return
	}
	fmt.Fprintf(a.stdout, "  %s  %s  %s\n", a.paint(a.stdout, green, "stopped by"), padded(r.By.String(), 58), a.paint(a.stdout, dim, or(r.Event, "no event")))
	if p := r.Response; p != nil {
		fmt.Fprintf(a.stdout, "  %s  %s\n", a.paint(a.stdout, dim, "before it "), inert(p.Says, 0))
		fmt.Fprintf(a.stdout, "              %s after what decided: %s\n", p.took(), p.witnesses())
	}
}
