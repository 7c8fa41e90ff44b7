"""Errors of a model, as the SDK's gRPC and CloudEvents doors need them."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
from grpc_interceptor.exceptions import GrpcException
from kserve import InferInput, InferRequest
from kserve.errors import ServerNotReady

from millrace.errors import Unavailable
from serving.server import HotModel
from serving.tensors import TensorSpec


class Away(HotModel):
    """A model whose predictor is away."""

    inputs = (TensorSpec("x", "FP32", (-1,)),)

    async def answer_v1(self, document, headers):
        raise Unavailable("the predictor is away")

    async def answer_v2(self, request, headers):
        raise Unavailable("the predictor is away")


def test_what_is_unavailable_is_unavailable_over_grpc_and_cloud_events():
    tensor = InferInput("x", [1], "FP32")
    tensor.set_data_from_numpy(np.float32([1]), binary_data=True)

    with pytest.raises(GrpcException) as caught:
        asyncio.run(Away("away").predict(InferRequest("away", [tensor])))
    with pytest.raises(ServerNotReady, match="the predictor is away"):
        asyncio.run(Away("away").predict({"instances": []}))

    assert caught.value.status_code == grpc.StatusCode.UNAVAILABLE
    assert "the predictor is away" in caught.value.details
