//! Settings as a tree of YAML values.

use serde::Serialize;
use serde_yaml_ng::{Mapping, Value};

use crate::error::SettingsError;

/// A tree without keys.
pub(crate) fn empty() -> Value {
    Value::Mapping(Mapping::new())
}

/// Puts `value` at a path of keys joined by `__`. A value on the way that has no keys gives way.
pub(crate) fn set(tree: &mut Value, path: &str, value: &str) {
    let mut at = tree;
    for key in path.split("__") {
        if !at.is_mapping() {
            *at = empty();
        }
        at = &mut at[key];
    }
    *at = serde_yaml_ng::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
}

/// The keys and values of `ours` that `defaults` does not have. `None` when the two are equal.
pub(crate) fn difference(ours: &Value, defaults: &Value) -> Option<Value> {
    match (ours, defaults) {
        (Value::Mapping(ours), Value::Mapping(defaults)) => {
            let changed = ours.iter().filter_map(|(key, value)| {
                let different = difference(value, defaults.get(key).unwrap_or(&Value::Null))?;
                Some((key.clone(), different))
            });
            let changed: Mapping = changed.collect();
            (!changed.is_empty()).then_some(Value::Mapping(changed))
        }
        _ => (ours != defaults).then(|| ours.clone()),
    }
}

pub(crate) fn to_yaml(value: &impl Serialize) -> Result<String, SettingsError> {
    Ok(serde_yaml_ng::to_string(value)?)
}

pub(crate) fn difference_yaml<T: Serialize>(ours: &T, defaults: &T) -> Result<String, SettingsError> {
    let (ours, defaults) = (serde_yaml_ng::to_value(ours)?, serde_yaml_ng::to_value(defaults)?);
    to_yaml(&difference(&ours, &defaults).unwrap_or_else(empty))
}
