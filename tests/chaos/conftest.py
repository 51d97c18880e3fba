"""The mesh and the shop of this folder's tests."""

from tests.support.shop_fixtures import authorizer, good, limiter, mesh, shop

__all__ = ["authorizer", "good", "limiter", "mesh", "shop"]
