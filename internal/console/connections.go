package console

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
)

var connectionPages = []page{
	{"/connections", "connections", "Connections and tools", "connections", (*Console).showConnections},
	{"/connections/{name}", "connection", "Connection", "connections", (*Console).showConnection},
	{"/connections/{name}/tools/{tool}", "tool", "Tool", "connections", (*Console).showTool},
	{"/grants", "grants", "Grants", "connections", (*Console).showGrants},
}

var connectionActions = []action{
	{"/connections", "connections", (*Console).addConnection},
	{"/connections/{name}/refresh", "connection", (*Console).refreshConnection},
	{"/connections/{name}/reach", "connection", (*Console).askReach},
	{"/connections/{name}/grants", "connection", (*Console).giveGrant},
	{"/connections/{name}/inspect", "connection", (*Console).setInspect},
	{"/connections/{name}/secrets", "connection", (*Console).putSecret},
	{"/connections/{name}/secrets/{secret}/rotate", "connection", (*Console).rotateSecret},
	{"/connections/{name}/tools/{tool}/accept", "tool", (*Console).acceptTool},
	{"/connections/{name}/tools/{tool}/effect", "tool", (*Console).setEffect},
	{"/grants/{grant}/revoke", "grants", (*Console).revokeGrant},
}

type connectionsPage struct {
	*listing[client.Connection]
	Users []client.User
}

var connectionColumns = []column[client.Connection]{
	{Key: "name", Title: "Connection", Value: func(c client.Connection) string { return c.Name }},
	{Key: "kind", Title: "Kind", Value: func(c client.Connection) string { return c.Kind }},
	{Key: "target", Title: "Where", Value: func(c client.Connection) string { return c.Target }},
	{Key: "owner", Title: "Owner", Value: func(c client.Connection) string { return c.Owner }},
	{Key: "tools", Title: "Tools", Value: func(c client.Connection) string { return fmt.Sprint(c.Tools) }, Less: func(a, b client.Connection) int { return cmp.Compare(b.Tools, a.Tools) }, Number: true},
	{Key: "drifted", Title: "Drifted", Value: func(c client.Connection) string { return fmt.Sprint(c.Drifted) }, Less: func(a, b client.Connection) int { return cmp.Compare(b.Drifted, a.Drifted) }, Number: true},
	{Key: "last_used", Title: "Last used", Value: func(c client.Connection) string { return exact(c.LastUsed) }, Less: func(a, b client.Connection) int { return b.LastUsed.Compare(a.LastUsed) }},
}

func (c *Console) showConnections(v *visit) (any, error) {
	found, err := v.API.Connections(v.ctx())
	if err != nil {
		return nil, err
	}
	d := connectionsPage{listing: arrange(v, found, func(c client.Connection) string { return c.Name }, connectionColumns)}
	if v.May("write") {
		d.Users, err = v.API.Users(v.ctx())
	}
	return d, err
}

func (c *Console) addConnection(v *visit) (done, error) {
	f := v.Form
	spec := client.ConnectionSpec{Kind: f.Get("kind"), Dialect: f.Get("dialect"), URL: strings.TrimSpace(f.Get("url")), Command: strings.Fields(f.Get("command")), Owner: f.Get("owner"),
		Description: f.Get("description"), AllowPrivate: f.Get("private") != ""}
	if secret := strings.TrimSpace(f.Get("secret")); secret != "" {
		spec.Secret, spec.Auth = secret, f.Get("auth")
	}
	made, err := v.reason().PutConnection(v.ctx(), f.Get("name"), spec)
	if err != nil {
		return done{}, err
	}
	text := made.Name + " is registered."
	if len(made.Warnings) > 0 {
		text += " " + strings.Join(made.Warnings, " ")
	}
	return done{to: string(pathOf("/connections", made.Name)), said: text}, nil
}

type connectionPage struct {
	client.ConnectionDetail
	Grants  []client.Grant
	More    int // grants that are not shown
	Secrets []secretRow
	Agents  []client.Agent
	Inspect []choice
	Mine    bool
}

// mostWhole is how many rows of something else a page shows; the rest has a table
// of its own.
const mostWhole = 50

// secretRow is a secret with what was made of it. Its value is nowhere here.
type secretRow struct {
	client.Secret
	Leases []client.Lease
}

func (c *Console) showConnection(v *visit) (any, error) {
	name := v.Request.PathValue("name")
	found, err := v.API.Connection(v.ctx(), name)
	if err != nil {
		return nil, err
	}
	v.Title = found.Name
	d := connectionPage{ConnectionDetail: found, Mine: v.May("write") || v.May("own") && found.Spec.Owner == v.Me.Name}
	grants, err := v.API.Grants(v.ctx(), "")
	if err != nil {
		return nil, err
	}
	for _, g := range grants {
		if g.Connection == name {
			d.Grants = append(d.Grants, g)
		}
	}
	if n := len(d.Grants) - mostWhole; n > 0 {
		d.Grants, d.More = d.Grants[:mostWhole], n
	}
	secrets, err := v.API.Secrets(v.ctx())
	if err != nil {
		return nil, err
	}
	for _, s := range secrets {
		if s.Connection != name {
			continue
		}
		row := secretRow{Secret: s}
		if s.Leases > 0 || s.Zombies > 0 {
			if row.Leases, err = v.API.Leases(v.ctx(), s.Name); err != nil {
				return nil, err
			}
		}
		d.Secrets = append(d.Secrets, row)
	}
	groups, err := v.API.Groups(v.ctx())
	if err != nil {
		return nil, err
	}
	d.Inspect = choices(found.Spec.Inspect, groups)
	if v.Form != nil && v.Form.Has("inspect-secret") {
		d.Inspect = choices(v.inspectForm(), groups) // what was refused is not lost
	}
	if v.May("write") {
		d.Agents, err = v.API.Agents(v.ctx())
	}
	return d, err
}

// offered reports whether a tool is one that agents are granted: no method of a
// protocol.
func offered(name string, builtin bool, kind string) bool {
	return !strings.HasPrefix(name, "mcp:") && (!builtin || kind != "mcp")
}

func (c *Console) refreshConnection(v *visit) (done, error) {
	name := v.Request.PathValue("name")
	r, err := v.reason().RefreshConnection(v.ctx(), name)
	text := fmt.Sprintf("%s asked: %d the same, %d new, %d changed, %d gone.", name, len(r.Same)+len(r.Pinned), len(r.New), len(r.Changed), len(r.Gone))
	return done{to: string(pathOf("/connections", name)), said: text}, err
}

// askReach asks the upstream, now: it is shown at once and kept nowhere.
func (c *Console) askReach(v *visit) (done, error) {
	r, err := v.API.ConnectionReach(v.ctx(), v.Request.PathValue("name"), 0)
	return done{template: "reached", title: r.Connection, data: r}, err
}

// known is a number that may not be known.
func known(n *int64) string {
	if n == nil {
		return ""
	}
	return strconv.FormatInt(*n, 10)
}

func (c *Console) giveGrant(v *visit) (done, error) {
	f, name := v.Form, v.Request.PathValue("name")
	spec := client.GrantSpec{Agent: f.Get("agent"), Connection: name, Tools: f["tool"], When: strings.TrimSpace(f.Get("when"))}
	if f.Get("all") != "" {
		spec.Tools = []string{"*"}
	}
	if days := map[string]int{"7": 7, "30": 30, "90": 90}[f.Get("days")]; days > 0 {
		spec.Expires = v.Now().Add(time.Duration(days) * 24 * time.Hour)
	}
	g, err := v.reason().PutGrant(v.ctx(), f.Get("grant"), spec)
	return done{to: string(pathOf("/connections", name)), said: g.Name + " is given to " + g.Agent + "."}, err
}

func (c *Console) putSecret(v *visit) (done, error) {
	f, name := v.Form, v.Request.PathValue("name")
	s, _, err := v.reason().PutSecret(v.ctx(), f.Get("secret"), client.SecretSpec{Owner: f.Get("owner"), Connection: name, Hosts: strings.Fields(f.Get("hosts"))}, f.Get("value"))
	v.Form.Del("value") // it is in no page
	return done{to: string(pathOf("/connections", name)), said: s.Name + " is sealed. It is shown nowhere, and sent only where its connection points."}, err
}

func (c *Console) rotateSecret(v *visit) (done, error) {
	name := v.Request.PathValue("name")
	r, err := v.reason().RotateSecret(v.ctx(), v.Request.PathValue("secret"), v.Form.Get("leaked") != "")
	return done{to: string(pathOf("/connections", name)), said: "The rotation of " + r.Secret + " has begun."}, err
}

type toolPage struct {
	client.ToolDetail
	Diff   client.ToolDiff
	Mine   bool
	Grants []client.Grant
}

func (c *Console) showTool(v *visit) (any, error) {
	connection, name := v.Request.PathValue("name"), v.Request.PathValue("tool")
	t, err := v.API.Tool(v.ctx(), connection, name)
	if err != nil {
		return nil, err
	}
	v.Title = t.Name
	of, err := v.API.Connection(v.ctx(), connection)
	if err != nil {
		return nil, err
	}
	d := toolPage{ToolDetail: t, Mine: v.May("write") || v.May("own") && of.Spec.Owner == v.Me.Name}
	if t.Status == "drifted" || t.Status == "new" {
		if d.Diff, err = v.API.ToolDiff(v.ctx(), connection, name); err != nil {
			return nil, err
		}
	}
	grants, err := v.API.Grants(v.ctx(), "")
	for _, g := range grants {
		if g.Connection == connection && (slices.Contains(g.Tools, "*") || slices.Contains(g.Tools, name)) {
			d.Grants = append(d.Grants, g)
		}
	}
	return d, err
}

func (v *visit) toolPath() string {
	return string(pathOf("/connections", v.Request.PathValue("name"), "tools", v.Request.PathValue("tool")))
}

func (c *Console) acceptTool(v *visit) (done, error) {
	_, err := v.reason().AcceptTool(v.ctx(), v.Request.PathValue("name"), v.Request.PathValue("tool"), v.Form.Get("digest"))
	return done{to: v.toolPath(), said: "The definition is accepted and pinned. Exactly this one may be called."}, err
}

func (c *Console) setEffect(v *visit) (done, error) {
	t, err := v.reason().SetEffect(v.ctx(), v.Request.PathValue("name"), v.Request.PathValue("tool"), v.Form.Get("effect"))
	return done{to: v.toolPath(), said: t.Name + " now counts as " + t.Effect + "."}, err
}

// grantUsed is a grant with what was used of it.
type grantUsed struct {
	client.Grant
	Use client.GrantUse
}

var grantColumns = []column[grantUsed]{
	{Key: "name", Title: "Grant", Value: func(g grantUsed) string { return g.Name }},
	{Key: "agent", Title: "Agent", Value: func(g grantUsed) string { return g.Grant.Agent }},
	{Key: "connection", Title: "Connection", Value: func(g grantUsed) string { return g.Grant.Connection }},
	{Key: "tools", Title: "Tools", Value: func(g grantUsed) string { return strings.Join(g.Grant.Tools, " ") }},
	{Key: "last_used", Title: "Last used", Value: func(g grantUsed) string { return exact(g.Use.LastAllowed) }, Less: func(a, b grantUsed) int { return a.Use.LastAllowed.Compare(b.Use.LastAllowed) }},
	{Key: "given_by", Title: "Given by", Value: func(g grantUsed) string { return g.GivenBy }},
	{Key: "reason", Title: "Why", Value: func(g grantUsed) string { return g.Reason }},
	{Key: "expires", Title: "Ends", Value: func(g grantUsed) string { return exact(g.Expires) }, Less: func(a, b grantUsed) int { return a.Expires.Compare(b.Expires) }},
}

func (c *Console) showGrants(v *visit) (any, error) {
	grants, err := v.API.Grants(v.ctx(), "")
	if err != nil {
		return nil, err
	}
	uses, err := v.API.GrantUses(v.ctx(), "")
	of := map[string]client.GrantUse{}
	for _, u := range uses.Grants {
		of[u.Grant] = u
	}
	rows := make([]grantUsed, len(grants))
	for i, g := range grants {
		rows[i] = grantUsed{g, of[g.Name]}
	}
	return arrange(v, rows, func(g grantUsed) string { return g.Name }, grantColumns), err
}

func (c *Console) revokeGrant(v *visit) (done, error) {
	name := v.Request.PathValue("grant")
	return done{to: "/grants", said: name + " is revoked."}, v.reason().RevokeGrant(v.ctx(), name)
}
