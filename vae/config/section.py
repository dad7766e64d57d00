"""The base class of config groups, and the types of the values in them."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, create_model
from pydantic.fields import FieldInfo

PositiveInt = Annotated[int, Field(ge=1, description="a whole number, 1 or more")]
Seed = Annotated[int, Field(ge=0, lt=2**32, description="a whole number, 0 or more, below 2^32")]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a number above 0")]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False, description="a number of 0 or more")]
HiddenSize = Annotated[
    list[PositiveInt],
    BeforeValidator(lambda size: size if isinstance(size, list) else [size]),
    Field(min_length=1, description="a whole number, 1 or more, or a list of them such as [400,200]"),
]
BelowOne = Annotated[float, Field(ge=0, lt=1, description="a number of 0 or more, below 1")]
Fraction = Annotated[float, Field(gt=0, lt=1, description="a number between 0 and 1")]
SPLIT_SIZE = "a number of images, 1 or more, or a fraction between 0 and 1"
SplitSize = Annotated[PositiveInt | Fraction, Field(description=SPLIT_SIZE)]
Switch = Annotated[bool, Field(description="true or false")]
Compile = Annotated[bool | Literal["auto"], Field(description="auto, true or false")]
UnitInterval = Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")]
Path = Annotated[str, Field(min_length=1, description="a folder or a file")]
ImageSide = Annotated[int, Field(ge=1, le=1024)]
ImageSize = Annotated[
    ImageSide | Annotated[list[ImageSide], Field(min_length=2, max_length=2)],
    Field(description="a whole number, 1 to 1024, or two of them, [height,width]"),
]
Channels = Annotated[list[PositiveInt], Field(min_length=1, description="a list of whole numbers, 1 or more")]


def fields_by_key(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a model by the key that users type."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


class Section(BaseModel, strict=True, extra="allow"):
    """A config group. Keys that are not listed here are allowed; the class that receives them checks them.

    A subclass with a `target` has the further keys of that class.
    """

    target: ClassVar[str | None] = None

    def __init_subclass__(cls, target: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.target = target

    @classmethod
    def descendants(cls) -> list[type[Self]]:
        """Return all subclasses."""
        return [model for child in cls.__subclasses__() for model in (child, *child.descendants())]

    @classmethod
    def of_target(cls, given: dict[str, Any]) -> type[Self]:
        """Return the subclass for the class that `given` names, or this one. Groups in it are replaced alike."""
        target = given.get("_target_")
        model = next((model for model in cls.descendants() if model.target and model.target == target), cls)
        return with_groups(model, given)


class Part(Section):
    """A group that creates one class."""

    class_name: str = Field(alias="_target_", description="a class, such as my_module.MyClass")


def is_group(annotation: Any) -> bool:
    """Return whether this type of a field is a config group."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def with_groups(model: type[Any], given: dict[str, Any]) -> type[Any]:
    """Return `model` with the type of each of its groups replaced by that of the class which `given` names."""
    groups: dict[str, Any] = {
        name: (field.annotation.of_target(given[name]), field)
        for name, field in model.model_fields.items()
        if is_group(field.annotation) and isinstance(given.get(name), dict)
    }
    return create_model(model.__name__, __base__=model, **groups) if groups else model
