package main

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

type work func() (types.AnyType, types.BaseMethodFault)

// start runs a task beside the call that asked for it. The simulator's own are over before their
// caller knows them, and name as their entity what is none, which strict clients cannot decode.
func (s *server) start(entity mo.Reference, method string, what work) types.ManagedObjectReference {
	name := strings.ToLower(method[:1]) + strings.TrimSuffix(method[1:], "_Task") + "Task"
	task := simulator.CreateTask(entity, name, nil)
	told := s.rules.take("task", method)
	stop := make(chan struct{})
	s.cancels.Store(task.Self.Value, stop)
	go func() {
		change(task, func(info *types.TaskInfo) {
			now := time.Now()
			info.State, info.StartTime = types.TaskInfoStateRunning, &now
		})
		var result types.AnyType
		var fault types.BaseMethodFault
		cancelled := told != nil && s.rules.wait(told.Seconds, stop)
		s.cancels.Delete(task.Self.Value)
		if cancelled {
			fault = new(types.RequestCanceled)
		} else if told == nil || told.Fault == "" || told.Done {
			result, fault = what()
		}
		if told != nil && told.Fault != "" {
			result, fault = nil, named(told.Fault)
		}
		change(task, func(info *types.TaskInfo) {
			now := time.Now()
			info.State, info.CompleteTime, info.Result = types.TaskInfoStateSuccess, &now, result
			if fault != nil {
				info.State = types.TaskInfoStateError
				info.Error = &types.LocalizedMethodFault{
					Fault:            fault,
					LocalizedMessage: fmt.Sprintf("It failed: %s", reflect.TypeOf(fault).Elem().Name()),
				}
			}
		})
	}()
	return task.Self
}

func change(task *simulator.Task, how func(*types.TaskInfo)) {
	simulator.Map.WithLock(task, func() { how(&task.Info) })
}

// named makes a fault of a type of the API.
func named(kind string) types.BaseMethodFault {
	if found, ok := types.TypeFunc()(kind); ok {
		value := reflect.New(found)
		if fault, ok := value.Interface().(types.BaseMethodFault); ok {
			fill(value.Elem())
			return fault
		}
	}
	return new(types.SystemError)
}

// fill names an object where a fault must: strict clients cannot decode an empty reference.
func fill(fault reflect.Value) {
	for i := 0; i < fault.NumField(); i++ {
		field := fault.Field(i)
		if _, ok := field.Interface().(types.ManagedObjectReference); ok {
			field.Set(reflect.ValueOf(vim25.ServiceInstance))
		} else if fault.Type().Field(i).Anonymous {
			fill(field)
		}
	}
}

// above returns the nearest entity of a kind over another one.
func above(entity mo.Entity, kind string) types.ManagedObjectReference {
	for parent := entity.Entity().Parent; parent != nil; {
		if parent.Type == kind {
			return *parent
		}
		next, ok := simulator.Map.Get(*parent).(mo.Entity)
		if !ok {
			break
		}
		parent = next.Entity().Parent
	}
	return types.ManagedObjectReference{}
}
