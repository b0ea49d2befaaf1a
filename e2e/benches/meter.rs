//! Counts what a call costs, in a waPC host that does nothing but answer.

use std::path::Path;

use vm_feature_manager_e2e::cluster::Cluster;
use wasmtime::{Caller, Config, Engine, Extern, Linker, Memory, Module, Store};

/// What a call of `validate` in a fresh instance took, its initialization included.
pub struct Cost {
    /// Wasmtime's fuel: about one unit an instruction.
    pub fuel: u64,
    /// The linear memory at the end, in bytes.
    pub memory: usize,
    /// How much of the stack is zero still, in bytes: it grows down to the start of the memory.
    pub free_stack: usize,
}

struct Guest {
    payload: Vec<u8>,
    cluster: Cluster,
    /// The answer of the last host call, or its error.
    answer: Vec<u8>,
}

const OPERATION: &str = "validate";
const FUEL: u64 = u64::MAX / 2;

/// A module that counts what it does.
pub struct Meter {
    module: Module,
}

impl Meter {
    /// Compiles a module.
    pub fn load(path: &Path) -> Self {
        let mut config = Config::new();
        config.consume_fuel(true);
        let engine = Engine::new(&config).unwrap();
        Self { module: Module::from_file(&engine, path).unwrap() }
    }

    /// Calls `validate` in a fresh instance.
    pub fn measure(&self, cluster: Cluster, payload: &[u8]) -> Cost {
        let engine = self.module.engine();
        let guest = Guest { payload: payload.to_vec(), cluster, answer: Vec::new() };
        let mut store = Store::new(engine, guest);
        store.set_fuel(FUEL).unwrap();
        let instance = linker(engine).instantiate(&mut store, &self.module).unwrap();
        for init in ["_initialize", "_start", "wapc_init"] {
            if let Ok(function) = instance.get_typed_func::<(), ()>(&mut store, init) {
                function.call(&mut store, ()).unwrap();
            }
        }
        let call = instance.get_typed_func::<(i32, i32), i32>(&mut store, "__guest_call").unwrap();
        let lengths = (OPERATION.len() as i32, payload.len() as i32);
        assert_eq!(call.call(&mut store, lengths).unwrap(), 1, "the guest failed");
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        let bytes = memory.data(&store);
        Cost {
            fuel: FUEL - store.get_fuel().unwrap(),
            memory: bytes.len(),
            free_stack: bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len()),
        }
    }
}

fn linker(engine: &Engine) -> Linker<Guest> {
    let mut linker = Linker::new(engine);
    let wapc = "wapc";
    linker
        .func_wrap(wapc, "__guest_request", |mut caller: Caller<'_, Guest>, operation: i32, at: i32| {
            let payload = std::mem::take(&mut caller.data_mut().payload);
            write(&mut caller, operation, OPERATION.as_bytes());
            write(&mut caller, at, &payload);
        })
        .unwrap();
    for name in ["__guest_response", "__guest_error"] {
        linker.func_wrap(wapc, name, |_: i32, _: i32| {}).unwrap();
    }
    linker
        .func_wrap(
            wapc,
            "__host_call",
            |mut caller: Caller<'_, Guest>,
             _: i32,
             _: i32,
             namespace: i32,
             namespace_len: i32,
             operation: i32,
             operation_len: i32,
             payload: i32,
             payload_len: i32|
             -> i32 {
                let namespace = read(&mut caller, namespace, namespace_len);
                let operation = read(&mut caller, operation, operation_len);
                let payload = read(&mut caller, payload, payload_len);
                let answer = match namespace.as_slice() {
                    b"kubernetes" => {
                        let operation = String::from_utf8(operation).unwrap();
                        caller.data().cluster.answer(&operation, &payload).map_err(|e| e.to_string())
                    }
                    _ => Ok(Vec::new()),
                };
                let is_answer = answer.is_ok();
                caller.data_mut().answer = answer.unwrap_or_else(String::into_bytes);
                i32::from(is_answer)
            },
        )
        .unwrap();
    for name in ["__host_response", "__host_error"] {
        let length = format!("{name}_len");
        linker.func_wrap(wapc, &length, |caller: Caller<'_, Guest>| caller.data().answer.len() as i32).unwrap();
        linker
            .func_wrap(wapc, name, |mut caller: Caller<'_, Guest>, at: i32| {
                let answer = caller.data().answer.clone();
                write(&mut caller, at, &answer);
            })
            .unwrap();
    }
    let wasi = "wasi_snapshot_preview1";
    for name in ["random_get", "environ_get", "environ_sizes_get"] {
        linker.func_wrap(wasi, name, |_: i32, _: i32| 0).unwrap();
    }
    linker.func_wrap(wasi, "fd_write", |_: i32, _: i32, _: i32, _: i32| 0).unwrap();
    linker.func_wrap(wasi, "proc_exit", |_: i32| {}).unwrap();
    linker
}

fn memory(caller: &mut Caller<'_, Guest>) -> Memory {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => memory,
        _ => panic!("the guest has no memory"),
    }
}

fn write(caller: &mut Caller<'_, Guest>, at: i32, bytes: &[u8]) {
    memory(caller).write(caller, at as usize, bytes).unwrap();
}

fn read(caller: &mut Caller<'_, Guest>, at: i32, length: i32) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    memory(caller).read(caller, at as usize, &mut bytes).unwrap();
    bytes
}
