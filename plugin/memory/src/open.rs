//! The parameters of the component, and how they make a disk.

use alloc::string::ToString;
use alloc::vec::Vec;

use memnbd_guest::MAX_SIZE;

use crate::abi::exports::memnbd::block::block_store::{Error, OpenRequest};
use crate::abi::memnbd::block::types::{ErrorCode, Parameter, ParameterType, SizeRange, Value};
use crate::allocator::{self, Allocator};
use crate::linear::Linear;
use crate::store::Store;

/// Returns the parameters that `open` takes.
pub(crate) fn parameters() -> Vec<Parameter> {
    let parameter = |name: &str, summary: &str, type_, default: Option<&str>| Parameter {
        name: name.to_string(),
        summary: summary.to_string(),
        type_,
        required: default.is_none(),
        repeatable: false,
        default: default.map(str::to_string),
    };
    let choices = allocator::CHOICES.map(str::to_string).into();
    let size = ParameterType::Size(SizeRange { minimum: 0, maximum: MAX_SIZE });
    Vec::from([
        parameter("size", "the size of the disk", size, None),
        parameter(
            "allocator",
            "sparse allocates memory when it is written, zstd compresses it, and malloc allocates \
             all of it at the start",
            ParameterType::Choice(choices),
            Some("sparse"),
        ),
        parameter(
            "mlock",
            "another spelling of the option of malloc, which can only be false: --swap locks the \
             server into memory",
            ParameterType::Boolean,
            Some("false"),
        ),
    ])
}

/// Creates the disk that the arguments describe.
pub(crate) fn open(request: &OpenRequest) -> Result<Store<Linear>, Error> {
    let find = |name: &str| {
        let argument = request.arguments.iter().find(|argument| argument.name == name);
        argument.map(|argument| &argument.value)
    };
    // It is required, so the host has seen to it.
    let Some(&Value::Size(size)) = find("size") else {
        return Err(Error { code: ErrorCode::Einval, message: None });
    };
    let choice = match find("allocator") {
        Some(Value::Text(choice)) => Some(choice.as_str()),
        _ => None,
    };
    let mlock = match find("mlock") {
        Some(&Value::Boolean(mlock)) => Some(mlock),
        _ => None,
    };
    let refuse = |code, message| Error { code, message: Some(message) };
    let allocator = Allocator::new(choice, mlock)
        .map_err(|message| refuse(ErrorCode::Einval, message.to_string()))?;
    let mut store = Store::new(size, Linear::new()).ok_or_else(|| {
        let message = "there is not enough memory: an instance needs at least 512 KiB";
        refuse(ErrorCode::Enomem, message.to_string())
    })?;
    if allocator == Allocator::Malloc {
        allocator::allocate_all(&mut store, size, request.memory_limit)
            .map_err(|message| refuse(ErrorCode::Enomem, message))?;
    }
    Ok(store)
}
