package console

import (
	"cmp"
	"slices"

	"github.com/countersign/countersign/client"
)

// graph is what an agent reaches, laid out on the server: the agent, its
// connections, their tools. It is drawn as SVG, and there as a list for who
// cannot see it.
type graph struct {
	Width, Height int
	Name          string
	Y             int // of the agent
	Connections   []node
	Tools         []node
	Edges         []edge
}

type node struct {
	Name, Effect string
	X, Y         int
	Used         bool
	Connection   string
}

type edge struct {
	X1, Y1, X2, Y2, Mid int
	Used                bool
	Effect              string
}

// The layout's measures, in SVG units.
const (
	graphRow   = 26
	graphLeft  = 118
	graphMid   = 232
	graphRight = 372
	mostNodes  = 60
)

func reachGraph(agent string, grants []grantRow, tools []client.Tool) graph {
	g := graph{Name: agent, Width: 600}
	used, may := map[string]bool{}, map[string]bool{}
	for _, gr := range grants {
		if gr.Expired {
			continue
		}
		for t := range gr.Used {
			used[gr.Connection+"/"+t] = true
		}
		for _, t := range tools {
			if t.Connection == gr.Connection && (slices.Contains(gr.Tools, "*") || slices.Contains(gr.Tools, t.Name)) {
				may[t.Connection+"/"+t.Name] = true
			}
		}
	}
	reached := slices.DeleteFunc(slices.Clone(tools), func(t client.Tool) bool { return !may[t.Connection+"/"+t.Name] })
	weight := map[string]int{"irreversible": 0, "write": 1, "read": 2}
	slices.SortStableFunc(reached, func(a, b client.Tool) int {
		return cmp.Or(cmp.Compare(a.Connection, b.Connection), cmp.Compare(weight[a.Effect], weight[b.Effect]), cmp.Compare(a.Name, b.Name))
	})
	if len(reached) > mostNodes {
		reached = reached[:mostNodes]
	}
	for i, t := range reached {
		n := node{Name: t.Name, Effect: t.Effect, Connection: t.Connection, X: graphRight, Y: graphRow * (i + 1), Used: used[t.Connection+"/"+t.Name]}
		g.Tools = append(g.Tools, n)
	}
	g.Height = graphRow * (len(reached) + 1)
	g.Y = g.Height / 2
	g.connect()
	return g
}

// connect puts each connection in the middle of its tools and draws the lines.
func (g *graph) connect() {
	for i := 0; i < len(g.Tools); {
		j := i
		c := node{Name: g.Tools[i].Connection, X: graphMid}
		for ; j < len(g.Tools) && g.Tools[j].Connection == c.Name; j++ {
			c.Used = c.Used || g.Tools[j].Used
		}
		c.Y = (g.Tools[i].Y + g.Tools[j-1].Y) / 2
		g.Edges = append(g.Edges, edge{X1: graphLeft, Y1: g.Y, X2: graphMid - 48, Y2: c.Y, Mid: (graphLeft + graphMid - 48) / 2, Used: c.Used})
		for _, t := range g.Tools[i:j] {
			g.Edges = append(g.Edges, edge{X1: graphMid + 48, Y1: c.Y, X2: t.X - 12, Y2: t.Y, Mid: (graphMid + 48 + t.X - 12) / 2, Used: t.Used, Effect: t.Effect})
		}
		g.Connections = append(g.Connections, c)
		i = j
	}
}
