package main

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
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
	go func() {
		change(task, func(info *types.TaskInfo) {
			now := time.Now()
			info.State, info.StartTime = types.TaskInfoStateRunning, &now
		})
		var result types.AnyType
		var fault types.BaseMethodFault
		if told != nil {
			s.rules.wait(told.Seconds)
		}
		if told == nil || told.Fault == "" || told.Done {
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

// named makes an empty fault of a type of the API.
func named(kind string) types.BaseMethodFault {
	if found, ok := types.TypeFunc()(kind); ok {
		if fault, ok := reflect.New(found).Interface().(types.BaseMethodFault); ok {
			return fault
		}
	}
	return new(types.SystemError)
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
