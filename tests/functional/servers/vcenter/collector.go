package main

import (
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	look    = 10 * time.Millisecond
	longest = 10 * time.Minute
)

// shown is a managed object behind one filter.
type shown struct {
	filter, self types.ManagedObjectReference
}

// seen are the properties of objects, by their names.
type seen map[shown]map[string]types.AnyType

// collector is a PropertyCollector that misses no update. Of the simulator's own only one session
// at a time learns of updates, a quarter of a second late, and what happens while a wait begins is
// lost.
type collector struct {
	simulator.PropertyCollector
	mu        sync.Mutex
	version   int
	last      seen
	cancelled int
}

func newCollector(self types.ManagedObjectReference) *collector {
	c := &collector{}
	c.Self = self
	return c
}

// RetrievePropertiesEx leaves out what a server does not say: the progress of a task without any.
func (c *collector) RetrievePropertiesEx(
	ctx *simulator.Context, req *types.RetrievePropertiesEx,
) soap.HasFault {
	answer := c.PropertyCollector.RetrievePropertiesEx(ctx, req)
	body, ok := answer.(*methods.RetrievePropertiesExBody)
	if !ok || body.Res == nil || body.Res.Returnval == nil {
		return answer
	}
	for i := range body.Res.Returnval.Objects {
		object := &body.Res.Returnval.Objects[i]
		var said []types.DynamicProperty
		for _, property := range object.PropSet {
			if property.Name != "info.progress" || property.Val != int32(0) {
				said = append(said, property)
			}
		}
		object.PropSet = said
	}
	return answer
}

// CreatePropertyCollector makes one more for the session.
func (c *collector) CreatePropertyCollector(
	ctx *simulator.Context, _ *types.CreatePropertyCollector,
) soap.HasFault {
	made := &collector{}
	made.Self.Type = "PropertyCollector"
	return &methods.CreatePropertyCollectorBody{Res: &types.CreatePropertyCollectorResponse{
		Returnval: ctx.Session.Put(made).Reference(),
	}}
}

// DestroyPropertyCollector ends a collector with its filters; whoever waits is told.
func (c *collector) DestroyPropertyCollector(
	ctx *simulator.Context, req *types.DestroyPropertyCollector,
) soap.HasFault {
	c.CancelWaitForUpdates(nil)
	for _, ref := range append([]types.ManagedObjectReference(nil), c.Filter...) {
		if filter, ok := ctx.Session.Get(ref).(*simulator.PropertyFilter); ok {
			filter.DestroyPropertyFilter(ctx, &types.DestroyPropertyFilter{This: ref})
		}
	}
	ctx.Session.Remove(req.This)
	return &methods.DestroyPropertyCollectorBody{Res: &types.DestroyPropertyCollectorResponse{}}
}

// CancelWaitForUpdates ends the waits that are under way.
func (c *collector) CancelWaitForUpdates(*types.CancelWaitForUpdates) soap.HasFault {
	c.mu.Lock()
	c.cancelled++
	c.mu.Unlock()
	return &methods.CancelWaitForUpdatesBody{Res: new(types.CancelWaitForUpdatesResponse)}
}

// WaitForUpdates waits for the first update.
func (c *collector) WaitForUpdates(ctx *simulator.Context, req *types.WaitForUpdates) soap.HasFault {
	body := &methods.WaitForUpdatesBody{}
	set, fault := c.wait(ctx, req.Version, longest)
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	body.Res = new(types.WaitForUpdatesResponse)
	if set != nil {
		body.Res.Returnval = *set
	}
	return body
}

// WaitForUpdatesEx waits for the first update, or as long as its options say.
func (c *collector) WaitForUpdatesEx(
	ctx *simulator.Context, req *types.WaitForUpdatesEx,
) soap.HasFault {
	body := &methods.WaitForUpdatesExBody{}
	limit := longest
	if req.Options != nil && req.Options.MaxWaitSeconds != nil {
		limit = time.Duration(*req.Options.MaxWaitSeconds) * time.Second
	}
	set, fault := c.wait(ctx, req.Version, limit)
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	body.Res = &types.WaitForUpdatesExResponse{Returnval: set}
	return body
}

func (c *collector) wait(
	ctx *simulator.Context, version string, limit time.Duration,
) (*types.UpdateSet, types.BaseMethodFault) {
	deadline := time.Now().Add(limit)
	c.mu.Lock()
	cancelled := c.cancelled
	c.mu.Unlock()
	for {
		if !alive(ctx.Session.Key) {
			return nil, named("NotAuthenticated")
		}
		set, fault := c.update(ctx, version)
		if set != nil || fault != nil {
			return set, fault
		}
		c.mu.Lock()
		over := c.cancelled != cancelled
		c.mu.Unlock()
		if over {
			return nil, new(types.RequestCanceled)
		}
		if time.Now().After(deadline) {
			return nil, nil
		}
		time.Sleep(look)
	}
}

// update returns what changed since a version, nil where nothing did.
func (c *collector) update(
	ctx *simulator.Context, version string,
) (*types.UpdateSet, types.BaseMethodFault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if version != "" && version != strconv.Itoa(c.version) {
		return nil, new(types.InvalidCollectorVersion)
	}
	now, fault := c.collect(ctx)
	if fault != nil {
		return nil, fault
	}
	before := c.last
	if version == "" {
		before = nil
	}
	changes := differences(before, now)
	if len(changes) == 0 && version != "" {
		return nil, nil
	}
	c.version++
	c.last = now
	return &types.UpdateSet{Version: strconv.Itoa(c.version), FilterSet: changes}, nil
}

func (c *collector) collect(ctx *simulator.Context) (seen, types.BaseMethodFault) {
	found := seen{}
	for _, ref := range c.Filter {
		filter, ok := ctx.Session.Get(ref).(*simulator.PropertyFilter)
		if !ok {
			continue
		}
		request := &types.RetrievePropertiesEx{SpecSet: []types.PropertyFilterSpec{filter.Spec}}
		body := c.RetrievePropertiesEx(ctx, request).(*methods.RetrievePropertiesExBody)
		if body.Fault_ != nil {
			return nil, body.Fault_.Detail.Fault.(types.BaseMethodFault)
		}
		for _, one := range body.Res.Returnval.Objects {
			values := map[string]types.AnyType{}
			for _, property := range one.PropSet {
				values[property.Name] = property.Val
			}
			found[shown{ref, one.Obj}] = values
		}
	}
	return found, nil
}

func differences(before, now seen) []types.PropertyFilterUpdate {
	sets := map[types.ManagedObjectReference][]types.ObjectUpdate{}
	for key, values := range now {
		old, known := before[key]
		update := types.ObjectUpdate{Kind: types.ObjectUpdateKindModify, Obj: key.self}
		if !known {
			update.Kind = types.ObjectUpdateKindEnter
		}
		for name, value := range values {
			if was, had := old[name]; !had || !reflect.DeepEqual(was, value) {
				change := types.PropertyChange{Name: name, Op: types.PropertyChangeOpAssign, Val: value}
				update.ChangeSet = append(update.ChangeSet, change)
			}
		}
		if !known || len(update.ChangeSet) > 0 {
			sets[key.filter] = append(sets[key.filter], update)
		}
	}
	for key := range before {
		if _, stays := now[key]; !stays {
			update := types.ObjectUpdate{Kind: types.ObjectUpdateKindLeave, Obj: key.self}
			sets[key.filter] = append(sets[key.filter], update)
		}
	}
	var updates []types.PropertyFilterUpdate
	for filter, objects := range sets {
		updates = append(updates, types.PropertyFilterUpdate{Filter: filter, ObjectSet: objects})
	}
	return updates
}
