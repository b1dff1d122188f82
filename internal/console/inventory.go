package console

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/countersign/countersign/client"
)

var inventoryPages = []page{
	{"/inventory", "inventory", "Inventory", "posture", (*Console).showInventory},
	{"/inventory/{id}", "inventoryentry", "Inventory", "posture", (*Console).showInventoryEntry},
}

var inventoryActions = []action{
	{"/inventory/{id}/set-aside", "inventoryentry", (*Console).setAside},
	{"/inventory/{id}/take-back", "inventoryentry", (*Console).takeBack},
}

// inventoryPage is what is registered against what was observed.
type inventoryPage struct {
	*listing[client.InventoryEntry]
	client.InventoryDifference
	State string
	Boxes []box
}

var inventoryColumns = []column[client.InventoryEntry]{
	{Key: "kind", Title: "Kind", Value: func(e client.InventoryEntry) string { return e.Kind }},
	{Key: "name", Title: "Name", Value: func(e client.InventoryEntry) string { return e.Name }},
	{Key: "why", Title: "What is wrong", Value: func(e client.InventoryEntry) string { return e.Why }},
	{Key: "times", Title: "Seen", Value: func(e client.InventoryEntry) string { return fmt.Sprint(e.Times) }, Less: func(a, b client.InventoryEntry) int { return cmp.Compare(b.Times, a.Times) }, Number: true},
	{Key: "first", Title: "First", Value: func(e client.InventoryEntry) string { return exact(e.First) }, Less: func(a, b client.InventoryEntry) int { return a.First.Compare(b.First) }},
	{Key: "last", Title: "Last", Value: func(e client.InventoryEntry) string { return exact(e.Last) }, Less: func(a, b client.InventoryEntry) int { return b.Last.Compare(a.Last) }},
	{Key: "by", Title: "By", Value: func(e client.InventoryEntry) string { return strings.Join(e.By, ", ") }},
}

func (c *Console) showInventory(v *visit) (any, error) {
	state := v.Query("state")
	q := client.InventoryQuery{State: state, Open: true}
	switch state {
	case "aside":
		q = client.InventoryQuery{}
	case "unobserved":
	default:
		state, q.State = "unregistered", "unregistered"
	}
	diff, err := v.API.InventoryDifference(v.ctx(), q)
	rows := diff.Entries
	if state == "aside" {
		rows = nil
		for _, e := range diff.Entries {
			if e.Aside != nil {
				rows = append(rows, e)
			}
		}
	}
	d := inventoryPage{listing: arrange(v, rows, func(e client.InventoryEntry) string { return e.ID }, inventoryColumns), InventoryDifference: diff, State: state}
	for _, b := range []box{{"unregistered", "Observed, not registered", -1, false}, {"unobserved", "Registered, never observed", -1, false}, {"aside", "Set aside", -1, false}} {
		b.Current = b.Name == state
		d.Boxes = append(d.Boxes, b)
	}
	return d, err
}

func (c *Console) showInventoryEntry(v *visit) (any, error) {
	e, err := v.API.InventoryEntry(v.ctx(), v.Request.PathValue("id"))
	v.Title = e.Kind + " " + e.Name
	return e, err
}

func (c *Console) setAside(v *visit) (done, error) {
	until, err := v.until("until")
	if err != nil {
		return done{}, err
	}
	e, err := v.reason().SetAside(v.ctx(), v.Request.PathValue("id"), until)
	return done{to: string(pathOf("/inventory", e.ID)), said: "Set aside until " + until.UTC().Format("2006-01-02") + ". E1 passes over it, and names the event in which you said so."}, err
}

func (c *Console) takeBack(v *visit) (done, error) {
	e, err := v.reason().TakeBack(v.ctx(), v.Request.PathValue("id"))
	return done{to: string(pathOf("/inventory", e.ID)), said: "It is to be acted on again."}, err
}
