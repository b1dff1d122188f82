package console

import (
	"fmt"
	"strconv"

	"github.com/countersign/countersign/client"
)

var reviewPages = []page{
	{"/reviews", "reviews", "Reviews", "reviews", (*Console).showReviews},
	{"/reviews/{review}", "review", "Review", "reviews", (*Console).showReview},
}

var reviewActions = []action{
	{"/reviews/{review}/items/{n}", "review", (*Console).decideReview},
	{"/reviews/{review}/close", "review", (*Console).closeReview},
}

// reviewsPage is what waits for the person, and every review.
type reviewsPage struct {
	*listing[client.Review]
	Mine      []client.ReviewWaits
	Questions bool
}

var reviewColumns = []column[client.Review]{
	{Key: "created", Title: "Begun", Value: func(r client.Review) string { return exact(r.Created) }, Less: func(a, b client.Review) int { return b.Created.Compare(a.Created) }},
	{Key: "name", Title: "Review", Value: func(r client.Review) string { return r.Name + " " + r.Question }},
	{Key: "state", Title: "State", Value: func(r client.Review) string { return r.State }},
	{Key: "open", Title: "Open", Value: func(r client.Review) string { return fmt.Sprint(r.Counts.Open) }, Less: func(a, b client.Review) int { return b.Counts.Open - a.Counts.Open }, Number: true},
	{Key: "kept", Title: "Kept", Value: func(r client.Review) string { return fmt.Sprint(r.Counts.Kept) }, Less: func(a, b client.Review) int { return b.Counts.Kept - a.Counts.Kept }, Number: true},
	{Key: "revoked", Title: "Revoked", Value: func(r client.Review) string { return fmt.Sprint(r.Counts.Revoked) }, Less: func(a, b client.Review) int { return b.Counts.Revoked - a.Counts.Revoked }, Number: true},
	{Key: "due", Title: "Due", Value: func(r client.Review) string { return exact(r.Due) }, Less: func(a, b client.Review) int { return a.Due.Compare(b.Due) }},
}

func (c *Console) showReviews(v *visit) (any, error) {
	questions := v.Query("questions") != ""
	all, err := v.API.Reviews(v.ctx(), questions)
	if err != nil {
		return nil, err
	}
	d := reviewsPage{listing: arrange(v, all, func(r client.Review) string { return r.ID }, reviewColumns), Questions: questions}
	if v.May("decide") {
		d.Mine, err = v.API.MyReviews(v.ctx())
	}
	return d, err
}

// reviewPage is one review with its items.
type reviewPage struct {
	client.Review
	mine map[int]bool
}

// Mine reports whether an item waits for the person.
func (d reviewPage) Mine(n int) bool { return d.mine[n] }

// Percent is how much of it is decided.
func (d reviewPage) Percent() int {
	return 100 * (d.Counts.Items - d.Counts.Open) / max(1, d.Counts.Items)
}

func (c *Console) showReview(v *visit) (any, error) {
	r, err := v.API.Review(v.ctx(), v.Request.PathValue("review"))
	if err != nil {
		return nil, err
	}
	v.Title = r.Name
	d := reviewPage{Review: r, mine: map[int]bool{}}
	if !v.May("decide") {
		return d, nil
	}
	mine, err := v.API.MyReviews(v.ctx())
	for _, w := range mine {
		if w.Item.Review == r.ID {
			d.mine[w.Item.N] = true
		}
	}
	return d, err
}

func (c *Console) decideReview(v *visit) (done, error) {
	review := v.Request.PathValue("review")
	n, err := strconv.Atoi(v.Request.PathValue("n"))
	if err != nil {
		return done{}, &client.Error{Status: 404, Detail: "There is no such item."}
	}
	i, err := v.reason().DecideReview(v.ctx(), review, n, v.Form.Get("decision"), "")
	said := i.Subject.Name + " is kept."
	if v.Form.Get("decision") == "revoke" {
		said = i.Subject.Name + " is to be revoked; that it is refused afterwards is tried."
	}
	return done{to: string(pathOf("/reviews", review)), said: said}, err
}

func (c *Console) closeReview(v *visit) (done, error) {
	review := v.Request.PathValue("review")
	_, err := v.reason().CloseReview(v.ctx(), review)
	return done{to: string(pathOf("/reviews", review)), said: "The review is ended; what was open is decided as was said at its start."}, err
}
