"""The mesh, the shop, and the API server with our kinds, of this folder's tests."""

from tests.support.kinds_fixtures import ask, kinds_api
from tests.support.shop_fixtures import authorizer, good, limiter, mesh, shop

__all__ = ["ask", "authorizer", "good", "kinds_api", "limiter", "mesh", "shop"]
