//! Values of postcard as JSON, by the format of their type.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_reflection::{ContainerFormat, Format, Named, Registry, VariantFormat};

/// The first value in `bytes`, and what is behind it; `None` when they are none.
pub(super) fn show<'b>(format: &Format, registry: &Registry, bytes: &'b [u8]) -> Option<(Value, &'b [u8])> {
    let mut deserializer = postcard::Deserializer::from_bytes(bytes);
    let value = Shape { format, registry }.deserialize(&mut deserializer).ok()?;
    Some((value, deserializer.finalize().ok()?))
}

#[derive(Clone, Copy)]
struct Shape<'a> {
    format: &'a Format,
    registry: &'a Registry,
}

impl<'a> Shape<'a> {
    fn of(self, format: &'a Format) -> Self {
        Shape { format, registry: self.registry }
    }

    fn all(self, formats: &'a [Format]) -> Vec<Self> {
        formats.iter().map(|format| self.of(format)).collect()
    }

    fn fields(self, fields: &'a [Named<Format>]) -> Fields<'a> {
        Fields {
            names: fields.iter().map(|field| &*field.name).collect(),
            shapes: fields.iter().map(|f| self.of(&f.value)).collect(),
        }
    }
}

/// A value that stands for itself in JSON.
fn plain<'de, V, D>(deserializer: D) -> Result<Value, D::Error>
where
    V: serde::Deserialize<'de> + serde::Serialize,
    D: Deserializer<'de>,
{
    let value = V::deserialize(deserializer)?;
    serde_json::to_value(value).map_err(D::Error::custom)
}

impl<'de> DeserializeSeed<'de> for Shape<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        match self.format {
            Format::Variable(_) => Err(D::Error::custom("an unfinished format")),
            Format::TypeName(name) => match self.registry.get(name) {
                Some(container) => self.container(container, from),
                None => Err(D::Error::custom("a type without a format")),
            },
            Format::Unit => plain::<(), _>(from),
            Format::Bool => plain::<bool, _>(from),
            Format::I8 => plain::<i8, _>(from),
            Format::I16 => plain::<i16, _>(from),
            Format::I32 => plain::<i32, _>(from),
            Format::I64 => plain::<i64, _>(from),
            Format::I128 => Ok(Value::String(<i128 as serde::Deserialize>::deserialize(from)?.to_string())),
            Format::U8 => plain::<u8, _>(from),
            Format::U16 => plain::<u16, _>(from),
            Format::U32 => plain::<u32, _>(from),
            Format::U64 => plain::<u64, _>(from),
            Format::U128 => Ok(Value::String(<u128 as serde::Deserialize>::deserialize(from)?.to_string())),
            Format::F32 => plain::<f32, _>(from),
            Format::F64 => plain::<f64, _>(from),
            Format::Char => plain::<char, _>(from),
            Format::Str => plain::<String, _>(from),
            Format::Bytes => plain::<Vec<u8>, _>(from),
            Format::Option(inner) => from.deserialize_option(Optional(self.of(inner))),
            Format::Seq(inner) => from.deserialize_seq(Sequence(self.of(inner))),
            Format::Map { key, value } => from.deserialize_map(Pairs { key: self.of(key), value: self.of(value) }),
            Format::Tuple(formats) => tuple(self.all(formats), from),
            Format::TupleArray { content, size } => tuple(vec![self.of(content); *size], from),
        }
    }
}

impl<'a> Shape<'a> {
    fn container<'de, D: Deserializer<'de>>(self, container: &'a ContainerFormat, from: D) -> Result<Value, D::Error> {
        match container {
            ContainerFormat::UnitStruct => plain::<(), _>(from),
            ContainerFormat::NewTypeStruct(inner) => self.of(inner).deserialize(from),
            ContainerFormat::TupleStruct(formats) => tuple(self.all(formats), from),
            ContainerFormat::Struct(fields) => self.fields(fields).read(from),
            // A variant's number stands before its content.
            ContainerFormat::Enum(_) => from.deserialize_tuple(2, Variant { shape: self, container }),
        }
    }
}

fn tuple<'de, D: Deserializer<'de>>(shapes: Vec<Shape<'_>>, from: D) -> Result<Value, D::Error> {
    from.deserialize_tuple(shapes.len(), Tuple(shapes)).map(Value::Array)
}

/// Fields with names.
struct Fields<'a> {
    names: Vec<&'a str>,
    shapes: Vec<Shape<'a>>,
}

impl Fields<'_> {
    fn read<'de, D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        let values = from.deserialize_tuple(self.shapes.len(), Tuple(self.shapes))?;
        Ok(Value::Object(self.names.into_iter().map(str::to_owned).zip(values).collect()))
    }
}

struct Tuple<'a>(Vec<Shape<'a>>);

impl<'de> Visitor<'de> for Tuple<'_> {
    type Value = Vec<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tuple")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Vec<Value>, A::Error> {
        let mut values = Vec::with_capacity(self.0.len());
        for shape in self.0 {
            values.push(from.next_element_seed(shape)?.ok_or_else(|| A::Error::custom("a tuple ends too early"))?);
        }
        Ok(values)
    }
}

struct Optional<'a>(Shape<'a>);

impl<'de> Visitor<'de> for Optional<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an option")
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        self.0.deserialize(from)
    }
}

struct Sequence<'a>(Shape<'a>);

impl<'de> Visitor<'de> for Sequence<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = from.next_element_seed(self.0)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }
}

struct Pairs<'a> {
    key: Shape<'a>,
    value: Shape<'a>,
}

impl<'de> Visitor<'de> for Pairs<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some((key, value)) = from.next_entry_seed(self.key, self.value)? {
            let key = match key {
                Value::String(text) => text,
                other => other.to_string(),
            };
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

struct Variant<'a> {
    shape: Shape<'a>,
    container: &'a ContainerFormat,
}

impl<'de> Visitor<'de> for Variant<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a variant")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let ContainerFormat::Enum(variants) = self.container else {
            return Err(A::Error::custom("no enum"));
        };
        let number: u32 = from.next_element()?.ok_or_else(|| A::Error::custom("a variant has a number"))?;
        let variant = variants.get(&number).ok_or_else(|| A::Error::custom("an unknown variant"))?;
        let content = Content { shape: self.shape, format: &variant.value };
        let value = from.next_element_seed(content)?.ok_or_else(|| A::Error::custom("a variant has a content"))?;
        let name = variant.name.clone();
        Ok(match value {
            None => Value::String(name),
            Some(value) => Value::Object(Map::from_iter([(name, value)])),
        })
    }
}

/// What stands behind the number of a variant; `None` where there is nothing.
struct Content<'a> {
    shape: Shape<'a>,
    format: &'a VariantFormat,
}

impl<'de> DeserializeSeed<'de> for Content<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Option<Value>, D::Error> {
        Ok(Some(match self.format {
            VariantFormat::Variable(_) => return Err(D::Error::custom("an unfinished format")),
            VariantFormat::Unit => return Ok(None),
            VariantFormat::NewType(inner) => self.shape.of(inner).deserialize(from)?,
            VariantFormat::Tuple(formats) => tuple(self.shape.all(formats), from)?,
            VariantFormat::Struct(fields) => self.shape.fields(fields).read(from)?,
        }))
    }
}
