package console

import (
	"io"
	"slices"
)

// page is one address that people look at. Its template is templates/NAME.html.
type page struct {
	path    string // pattern of net/http
	name    string
	title   string
	section string // entry of the navigation
	show    func(*Console, *visit) (any, error)
}

// action is a form that a page sends. What it does, the API does.
type action struct {
	path string
	page string // shown again when the API refuses; must have the same parameters in its path
	do   func(*Console, *visit) (done, error)
}

// done is what follows an action that the API carried out.
type done struct {
	to   string // where the browser goes
	said string // what the next page says

	session string // another session of the person, which the browser has from now on

	// A file to save instead, which is closed.
	file string
	body io.ReadCloser

	// A template to show at once instead, for what is shown only this once.
	template, title string
	data            any
}

// pages are all addresses. A new one is a row here, a template, and a function.
var pages = slices.Concat(nowPages, approvalPages, agentPages, runPages, eventPages, connectionPages, policyPages, budgetPages, posturePages, findingPages, inventoryPages, detectionPages, incidentPages, reviewPages, undoPages, releasePages, lockPages, peoplePages, setupPages, profilePages)

// actions are all forms.
var actions = slices.Concat(approvalActions, agentActions, runActions, eventActions, connectionActions, policyActions, budgetActions, postureActions, findingActions, inventoryActions, detectionActions, incidentActions, reviewActions, undoActions, releaseActions, lockActions, peopleActions, setupActions, profileActions, passkeyActions)

func pageNamed(name string) *page {
	i := slices.IndexFunc(pages, func(p page) bool { return p.name == name })
	if i < 0 {
		return nil
	}
	return &pages[i]
}

func (a action) section() string {
	if p := pageNamed(a.page); p != nil {
		return p.section
	}
	return ""
}
