//! waPC, the protocol between a WebAssembly host and its guest, on wasmtime. It offers only as much of WASI as a guest
//! in Rust needs. Wasmtime's own cache can keep compiled modules in a folder.

use std::path::Path;

use wasmtime::{
    AsContext, AsContextMut, Cache, Caller, Config, Engine, Error, Extern, InstancePre, Linker, Memory, Module,
    OptLevel, Result, Store, TypedFunc, bail,
};

use crate::cache;
use crate::cluster::CallbackResult;

/// Answers the guest's calls: binding, namespace, operation, payload.
pub type Callback = Box<dyn Fn(&str, &str, &str, &[u8]) -> CallbackResult + Send>;

/// A compiled module, ready to be instantiated.
#[derive(Clone)]
pub struct Guest(InstancePre<State>);

/// An instance of a module.
pub struct Instance {
    store: Store<State>,
    guest_call: TypedFunc<(i32, i32), i32>,
    memory: Memory,
}

/// What an instance has used so far, including its start.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Wasmtime's fuel: about one unit per instruction. It is the same on every machine.
    pub fuel: u64,
    /// The linear memory, in bytes.
    pub memory: usize,
    /// How many bytes of the stack are still zero. The stack grows down to the start of the memory.
    pub free_stack: usize,
}

/// The data of a call so far.
struct State {
    callback: Callback,
    operation: Vec<u8>,
    payload: Vec<u8>,
    /// The host's answer to the guest's last call, or its error.
    host_answer: Vec<u8>,
    response: Option<Vec<u8>>,
    error: Option<Vec<u8>>,
}

/// More than any call needs, because fuel is only counted, not limited.
const FUEL: u64 = u64::MAX / 2;

impl Guest {
    /// Compiles a module, or loads it from a folder of compiled modules. A module that is not in the folder is added.
    ///
    /// # Errors
    /// The bytes are not a module, or it needs something that waPC does not offer.
    pub fn load(bytes: &[u8], cache: Option<&Path>) -> Result<Self> {
        // If the folder cannot be used, or a file in it is damaged, that only costs time.
        let kept = cache.and_then(cache::within).and_then(|cache| compiled(bytes, Some(cache)).ok());
        let module = kept.map_or_else(|| compiled(bytes, None), Ok)?;
        Ok(Self(linker(module.engine())?.instantiate_pre(&module)?))
    }

    /// A fresh instance.
    ///
    /// # Errors
    /// The start of the guest fails, or it is not a waPC guest.
    pub fn instance(&self, callback: Callback) -> Result<Instance> {
        let [operation, payload, host_answer] = [const { Vec::new() }; 3];
        let state = State { callback, operation, payload, host_answer, response: None, error: None };
        let mut store = Store::new(self.0.module().engine(), state);
        store.set_fuel(FUEL)?;
        let instance = self.0.instantiate(&mut store)?;
        for start in ["_start", "_initialize", "wapc_init"] {
            if let Ok(function) = instance.get_typed_func::<(), ()>(&mut store, start) {
                function.call(&mut store, ())?;
            }
        }
        let guest_call = instance.get_typed_func(&mut store, "__guest_call")?;
        let memory = instance.get_memory(&mut store, "memory").ok_or_else(|| Error::msg("it exports no memory"))?;
        Ok(Instance { store, guest_call, memory })
    }
}

impl Instance {
    /// Calls an operation of the guest.
    ///
    /// # Errors
    /// The guest traps, or answers with an error.
    pub fn call(&mut self, operation: &str, payload: &[u8]) -> Result<Vec<u8>> {
        let state = self.store.data_mut();
        state.operation = operation.as_bytes().to_vec();
        state.payload = payload.to_vec();
        (state.response, state.error) = (None, None);
        let lengths = (length(operation.as_bytes())?, length(payload)?);
        let is_answered = self.guest_call.call(&mut self.store, lengths)? != 0;
        let state = self.store.data_mut();
        match (state.response.take(), state.error.take()) {
            (Some(response), _) if is_answered => Ok(response),
            (_, Some(error)) => Err(Error::msg(String::from_utf8_lossy(&error).into_owned())),
            _ => Err(Error::msg("the guest gave no answer")),
        }
    }

    /// What the instance has taken up to now.
    pub fn cost(&self) -> Cost {
        let memory = self.memory.data(&self.store);
        Cost {
            fuel: FUEL - self.store.get_fuel().unwrap_or(FUEL),
            memory: memory.len(),
            free_stack: memory.iter().position(|byte| *byte != 0).unwrap_or(memory.len()),
        }
    }
}

fn compiled(bytes: &[u8], cache: Option<Cache>) -> Result<Module> {
    let mut config = Config::new();
    config.cache(cache).consume_fuel(true);
    if cfg!(debug_assertions) {
        // An engine that is compiled without optimization would take seconds to optimize a module that then runs for a
        // millisecond.
        config.cranelift_opt_level(OptLevel::None);
    }
    Module::new(&Engine::new(&config)?, bytes)
}

fn linker(engine: &Engine) -> Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    add_wapc(&mut linker)?;
    add_wasi(&mut linker)?;
    Ok(linker)
}

type Calling<'a> = Caller<'a, State>;

fn add_wapc(linker: &mut Linker<State>) -> Result<()> {
    let wapc = "wapc";
    linker.func_wrap(wapc, "__guest_request", |mut caller: Calling<'_>, operation: i32, payload: i32| {
        let state = caller.data_mut();
        let (name, bytes) = (std::mem::take(&mut state.operation), std::mem::take(&mut state.payload));
        write(&mut caller, operation, &name)?;
        write(&mut caller, payload, &bytes)
    })?;
    linker.func_wrap(wapc, "__guest_response", |mut caller: Calling<'_>, at: i32, length: i32| -> Result<()> {
        caller.data_mut().response = Some(read(&mut caller, at, length)?);
        Ok(())
    })?;
    linker.func_wrap(wapc, "__guest_error", |mut caller: Calling<'_>, at: i32, length: i32| -> Result<()> {
        caller.data_mut().error = Some(read(&mut caller, at, length)?);
        Ok(())
    })?;
    linker.func_wrap(wapc, "__console_log", |_: i32, _: i32| {})?;
    linker.func_wrap(wapc, "__host_call", host_call)?;
    for name in ["__host_response", "__host_error"] {
        linker.func_wrap(wapc, &format!("{name}_len"), |caller: Calling<'_>| length(&caller.data().host_answer))?;
        linker.func_wrap(wapc, name, |mut caller: Calling<'_>, at: i32| {
            let answer = std::mem::take(&mut caller.data_mut().host_answer);
            write(&mut caller, at, &answer)?;
            caller.data_mut().host_answer = answer;
            Ok(())
        })?;
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the protocol has so many")]
fn host_call(
    mut caller: Calling<'_>,
    binding: i32,
    binding_length: i32,
    namespace: i32,
    namespace_length: i32,
    operation: i32,
    operation_length: i32,
    payload: i32,
    payload_length: i32,
) -> Result<i32> {
    let mut text = |at, length| String::from_utf8(read(&mut caller, at, length)?).map_err(Error::from);
    let binding = text(binding, binding_length)?;
    let namespace = text(namespace, namespace_length)?;
    let operation = text(operation, operation_length)?;
    let payload = read(&mut caller, payload, payload_length)?;
    let state = caller.data_mut();
    let answer = (state.callback)(&binding, &namespace, &operation, &payload);
    let is_answer = answer.is_ok();
    state.host_answer = answer.unwrap_or_else(|error| error.to_string().into_bytes());
    Ok(i32::from(is_answer))
}

/// The part of WASI that the standard library needs if nothing is read or printed.
fn add_wasi(linker: &mut Linker<State>) -> Result<()> {
    const SUCCESS: i32 = 0;
    const BAD_FILE: i32 = 8;
    let wasi = "wasi_snapshot_preview1";
    linker.func_wrap(wasi, "environ_get", |_: i32, _: i32| SUCCESS)?;
    linker.func_wrap(wasi, "environ_sizes_get", |mut caller: Calling<'_>, count: i32, size: i32| -> Result<i32> {
        write(&mut caller, count, &[0; 4])?;
        write(&mut caller, size, &[0; 4])?;
        Ok(SUCCESS)
    })?;
    // Seeds for hash maps. They are the same every time, so that an evaluation can be repeated.
    linker.func_wrap(wasi, "random_get", |mut caller: Calling<'_>, at: i32, length: i32| -> Result<i32> {
        let bytes = vec![0; usize::try_from(length)?];
        write(&mut caller, at, &bytes)?;
        Ok(SUCCESS)
    })?;
    linker.func_wrap(wasi, "fd_write", |_: i32, _: i32, _: i32, _: i32| BAD_FILE)?;
    linker.func_wrap(wasi, "proc_exit", |code: i32| -> Result<()> { bail!("the guest ended with code {code}") })?;
    Ok(())
}

fn length(bytes: &[u8]) -> Result<i32> {
    Ok(i32::try_from(bytes.len())?)
}

fn memory(caller: &mut Calling<'_>) -> Result<Memory> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory),
        _ => bail!("it exports no memory"),
    }
}

fn write(caller: &mut Calling<'_>, at: i32, bytes: &[u8]) -> Result<()> {
    let memory = memory(caller)?;
    memory.write(caller.as_context_mut(), at.cast_unsigned() as usize, bytes)?;
    Ok(())
}

fn read(caller: &mut Calling<'_>, at: i32, length: i32) -> Result<Vec<u8>> {
    let (at, length) = (at.cast_unsigned() as usize, length.cast_unsigned() as usize);
    let memory = memory(caller)?;
    let bytes = memory.data(caller.as_context()).get(at..at + length);
    Ok(bytes.ok_or_else(|| Error::msg("it names bytes beyond its memory"))?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty module.
    const EMPTY: &[u8] = b"\0asm\x01\0\0\0";

    #[test]
    fn a_module_that_needs_more_than_wapc_is_refused() {
        // It imports the function "x" "y".
        let module = [EMPTY, b"\x01\x04\x01\x60\0\0\x02\x07\x01\x01x\x01y\0\0"].concat();
        let error = Guest::load(&module, None).err().unwrap().to_string();
        assert!(error.contains("unknown import"), "{error}");
    }
}
